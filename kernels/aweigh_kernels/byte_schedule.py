"""How products with weights of 8 bits are divided on a GPU. Pure: by shapes alone."""

from dataclasses import dataclass

import triton

from aweigh_kernels.gpus import Gpu
from aweigh_kernels.rounding import GROUP
from aweigh_kernels.skinny_matmul import splits

MOST_TOKENS = 128  # of one program
_LEAST_TOKENS = 16  # that a tensor core takes
_TILE = 64  # rows of the weight, where programs share them
_MOST_SPLITS = 8
_LEAST_BYTES = 1024  # of each row, of a part
_DEEP = 8192  # bytes of a long row


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a product."""

    num_tokens: int
    out_size: int
    width: int  # bytes of a row of the weight, a multiple of GROUP
    x_bytes: int  # of one number of the activations
    integers: bool = False
    parts: bool = False  # sums of each GROUP columns have a scale of their own


@dataclass(frozen=True, slots=True)
class Few:
    """How `multiply_few` is divided."""

    tokens: int  # of one program
    rows: int  # of the weight, of one program
    depth: int  # numbers of each row that are read at once
    splits: int  # programs that share rows, each with a part of their numbers
    num_stages: int  # tiles on their way, and the one that is multiplied
    ahead: int = 512  # bytes of each row that are asked for while the kernel before ends
    num_warps: int = 4


@dataclass(frozen=True, slots=True)
class Many:
    """How `multiply_many` is divided."""

    rows: int  # of the weight, of one program
    num_stages: int
    tokens: int = 128
    depth: int = GROUP
    band: int = 8  # tiles of tokens that are computed together
    num_warps: int = 8


def schedule(shape: Shape, gpu: Gpu) -> Few | Many:
    """How a product is divided: so that all multiprocessors have work."""
    narrow = shape.x_bytes == 1 and (gpu.int8 or not shape.integers)
    if narrow and gpu.warpgroups and shape.num_tokens > _TILE:
        if fills(shape, gpu):
            return _many(shape, gpu)
        tiles = triton.cdiv(shape.num_tokens, _TILE) * triton.cdiv(shape.out_size, 128)
        if shape.parts and tiles > gpu.num_processors * 5 // 8:
            return _low(gpu, 5)
    return few(shape, gpu)


def fills(shape: Shape, gpu: Gpu) -> bool:
    """Whether tiles of 128 tokens and 128 rows are nearly as many as multiprocessors."""
    tiles = triton.cdiv(shape.num_tokens, 128) * triton.cdiv(shape.out_size, 128)
    return shape.num_tokens > _TILE and tiles > gpu.num_processors * 7 // 8


def _many(shape: Shape, gpu: Gpu) -> Many:
    """What is fastest on an H200 for long rows and for short ones."""
    deep = shape.width >= _DEEP
    if shape.parts and not deep and shape.num_tokens > 128:
        return _low(gpu, 3)
    # Sums of wide tiles leave no registers for those of one tile's depth: those of integers are
    # the same.
    tiles = triton.cdiv(shape.num_tokens, 128) * triton.cdiv(shape.out_size, 128)
    wide = shape.integers and deep and tiles > 2 * gpu.num_processors
    rows = 256 if wide and _stages(256 + 128, GROUP, gpu) >= 3 else 128
    stages = 3 if shape.integers and not deep else 4
    return Many(rows=rows, num_stages=min(stages, _stages(rows + 128, GROUP, gpu)))


def _low(gpu: Gpu, stages: int) -> Many:
    """Tiles of fewer tokens, of which two programs fill a multiprocessor."""
    stages = min(stages, _stages(_TILE + 128, GROUP, gpu))
    return Many(rows=128, num_stages=stages, tokens=_TILE, band=16, num_warps=4)


def few(shape: Shape, gpu: Gpu, tile_tokens: int | None = None) -> Few:
    """For few tokens, what is fastest on an H200 (docs/kernels/fp8-weight.md).

    Args:
        shape: of the product.
        gpu: where it is computed.
        tile_tokens: of one program. None: as many as are best.
    """
    if shape.parts:
        return _parts(shape, gpu, tile_tokens or _tokens(shape, _TILE))
    tokens = tile_tokens or _tokens(shape, _TILE if shape.x_bytes == 1 else MOST_TOKENS)
    shallow = shape.x_bytes * tokens > _TILE or shape.width % (2 * GROUP) != 0
    depth = GROUP if shallow else 2 * GROUP
    deeper = 2 * GROUP // depth  # of shallow tiles more are on their way

    def by(rows: int, parts: int, stages: int, *, ahead: int = 512, together: int = 1) -> Few:
        own = GROUP if rows > _TILE else depth
        most = _stages(rows + shape.x_bytes * tokens, own, gpu) // together
        # Wide activations fill the registers of four warps.
        warps = 8 if rows > _TILE and shape.x_bytes * tokens > _TILE else 4
        return Few(tokens, rows, own, parts, min(stages, max(most, 2)), ahead, warps)

    processors, is_least = gpu.num_processors, tokens == _LEAST_TOKENS
    tiles = triton.cdiv(shape.out_size, _TILE) * triton.cdiv(shape.num_tokens, tokens)
    if is_least and tiles > 3 * processors:
        return by(_TILE, 1, 4 * deeper, ahead=0, together=2)
    if not is_least and tiles > 2 * processors:
        return by(128, 1, 5, ahead=0)  # each tile needs all of x: the fewer the better
    most = max(1, min(_MOST_SPLITS, shape.width // _LEAST_BYTES))
    alone, three = (splits(tiles, each * processors, most) for each in (1, 3))
    if is_least and (tiles > processors or three > 3.3 * alone):
        return by(_TILE, three, 3 * deeper, together=3)
    if tiles > processors:
        return by(_TILE, 1, 3 * deeper, together=2)
    return by(_TILE, alone, (6 if is_least else 5) * deeper)


def _parts(shape: Shape, gpu: Gpu, tokens: int) -> Few:
    """A tile of one GROUP is a step, which waits for its own sums: many programs fill that time."""
    processors, is_least = gpu.num_processors, tokens == _LEAST_TOKENS
    tiles = triton.cdiv(shape.out_size, _TILE) * triton.cdiv(shape.num_tokens, tokens)

    def by(rows: int, parts: int, stages: int, ahead: int) -> Few:
        most = _stages(rows + shape.x_bytes * tokens, GROUP, gpu)
        # Wide activations, or sums of many, fill the registers of four warps.
        warps = 8 if rows > _TILE and shape.x_bytes * tokens > _TILE else 4
        return Few(tokens, rows, GROUP, parts, min(stages, most), ahead, warps)

    if not is_least and tiles > 2 * processors:
        # Each tile needs all of x: the fewer the better, if registers have room for their sums.
        return by(128 if tokens <= _TILE else _TILE, 1, 3, 0)
    most = max(1, min(_MOST_SPLITS, shape.width // (4 * GROUP)))
    return by(_TILE, splits(tiles, (4 if is_least else 2) * processors, most), 5, 512)


def _tokens(shape: Shape, most: int) -> int:
    """Of one program."""
    return min(most, max(_LEAST_TOKENS, int(triton.next_power_of_2(shape.num_tokens))))


def _stages(lines: int, depth: int, gpu: Gpu) -> int:
    return max(2, gpu.shared_bytes // (lines * depth))
