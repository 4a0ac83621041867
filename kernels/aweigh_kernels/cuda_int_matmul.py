"""Products of few tokens with weights of 4 or 8 bits, all of them or two in four kept (`csrc/`).

Sums are fp32, in an order that depends on shapes alone: the same product is the same bits again.
What a weight is made of is said in `Arguments`: of packed integers by `arguments_of`.
"""

import ctypes
import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch.nn.functional import pad

from aweigh_kernels import int_packing
from aweigh_kernels.cuda_library import library
from aweigh_kernels.dense import starts_early
from aweigh_kernels.skinny_matmul import Scratch

ROWS = 32  # of the weight, of a warp
GATES = {"silu": 1, "gelu_pytorch_tanh": 2}  # After, in csrc/arguments.cuh
TURN = 3
SHAPES = ((1, 8), (2, 8), (4, 4), (4, 8), (8, 4), (8, 8))  # of blocks: tiles, warps
DENSE_SHAPES = SHAPES[:1]  # where all are kept: of more tokens others are faster
_TILE = 8  # tokens that a tensor core takes at once
_MOST_TILES = 8  # of a block
_LEAST_STEPS = 4  # of blocks that share rows
_MOST_LEFT = 1 << 17  # bytes of sums that the last of them adds
_ALIGNED = 8  # numbers: copies are of 16 bytes
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """How a product is divided."""

    tiles: int  # of 8 tokens, of a block: 1, 2, 4, or 8 where two in four are kept
    warps: int  # of a block, with 32 rows each: 8, or 4 where tiles are 4 or more
    splits: int  # blocks that share rows, each with a part of their columns

    @property
    def rows(self) -> int:
        """Of the weight, of a block."""
        return self.warps * ROWS

    @property
    def resident(self) -> int:
        """Blocks that have room on a multiprocessor at once."""
        if self.warps == 8:
            return 1 if self.tiles == _MOST_TILES else 2
        return 2 if self.tiles == _MOST_TILES else 3

    def blocks(self, num_tokens: int, num_rows: int) -> int:
        """That share no rows."""
        return -(-num_rows // self.rows) * -(-num_tokens // (self.tiles * _TILE))


class Arguments(ctypes.Structure):
    """As `Arguments` in csrc/arguments.cuh."""

    _fields_ = (
        *(
            (name, ctypes.c_void_p)
            for name in (
                "x", "packed", "scales", "output", "sums", "arrived", "cos", "sin", "kv", "slots",
            )
        ),
        *(
            (name, ctypes.c_int)
            for name in (
                "tokens", "rows", "columns", "pitch", "units", "steps", "scale_pitch",
                "scale_steps", "tiles", "warps", "splits", "bits", "sparse", "wide", "early",
                "first", "count", "block_rows", "blocks", "whole", "sharers", "after", "size",
                "kv_heads", "kept_as_fp8",
            )
        ),
        *((name, ctypes.c_float) for name in ("key_scale", "value_scale")),
    )  # fmt: skip


@cache
def ready(
    device: torch.device, bits: int, dtype: torch.dtype, *, sparse: bool
) -> frozenset[tuple[int, int]]:
    """Tiles and warps of the blocks that a GPU has room for; loads their kernels.

    Call it before a graph is captured that holds products. None are ready where the library is not,
    or the GPU lacks what all need: a warning says so once.
    """
    kernels = library()
    if kernels is None:
        return frozenset()
    found, error = set(), 0
    with torch.cuda.device(device):
        for tiles, warps in SHAPES if sparse else DENSE_SHAPES:
            given = Arguments(
                bits=bits, sparse=sparse, wide=dtype == torch.bfloat16, tiles=tiles, warps=warps
            )
            refused = kernels.aweigh_int_make_ready(ctypes.byref(given))
            if not refused:
                found.add((tiles, warps))
            error = error or refused
    if not found:
        warn(f"with {bits}-bit weights", device, error)
    return frozenset(found)


def warn(what: str, device: torch.device, error: int) -> None:
    """Say what no kernel in CUDA C++ multiplies on a GPU, and what CUDA says of it."""
    name, said = torch.cuda.get_device_name(device), _meaning(error)
    _log.warning("no kernel in CUDA C++ multiplies %s: %s, %s", what, name, said)


def schedule(
    num_tokens: int,
    shape: tuple[int, int],
    depth: int,
    num_processors: int,
    shapes: Collection[tuple[int, int]],
) -> Schedule:
    """A guess for Hopper by shape alone (docs/kernels/sparse-int-weight.md).

    Args:
        num_tokens: T.
        shape: N, K.
        depth: columns of a step.
        num_processors: multiprocessors of the GPU.
        shapes: of blocks, of `ready`.
    """
    needed, sizes = -(-num_tokens // _TILE), sorted({tiles for tiles, _ in shapes})
    tiles = next((each for each in sizes if each >= needed), sizes[-1])

    def shared(warps: int) -> Schedule:
        """With blocks for the same rows that fill a GPU, and leave each other not too much."""
        alone = Schedule(tiles, warps, 1)
        wanted = alone.resident * num_processors // alone.blocks(num_tokens, shape[0])
        tokens = min(alone.tiles * _TILE, num_tokens + num_tokens % 2)
        most = min(-(-shape[1] // depth) // _LEAST_STEPS, _MOST_LEFT // (4 * alone.rows * tokens))
        return replace(alone, splits=max(1, min(wanted, most)))

    wide, *narrow = (shared(warps) for warps in (8, 4) if (tiles, warps) in shapes)
    filled = wide.blocks(num_tokens, shape[0]) * wide.splits / num_processors
    return wide if filled >= 0.75 or not narrow else narrow[0]


def arguments_of(packed: int_packing.Packed, output: torch.Tensor) -> Arguments:
    """A weight of packed integers, whole tiles of which are steps, and where the product goes."""
    units, tiles, _ = packed.words.shape
    groups, pitch = packed.factors.shape
    return Arguments(
        packed=packed.words.data_ptr(),
        scales=packed.factors.data_ptr(),
        output=output.data_ptr(),
        rows=packed.shape[0],
        columns=packed.shape[1],
        units=units * (int_packing.ROWS // ROWS),
        steps=tiles,
        scale_pitch=pitch if groups > 1 else 0,
        scale_steps=packed.group // packed.depth if groups > 1 else tiles,
        bits=packed.bits,
        wide=output.dtype == torch.bfloat16,
    )


def launch(x: torch.Tensor, given: Arguments, scratch: Scratch, chosen: Schedule) -> None:
    """Launch the kernel.

    Args:
        x: [T, K]; T is 1 or more.
        given: the weight, and the output, [T, N].
        scratch: has room for what blocks leave to each other.
        chosen: how it is divided.
    """
    blocks = chosen.blocks(len(x), given.rows) if chosen.splits > 1 else 0
    assert blocks <= scratch.arrived.numel()
    assert blocks * chosen.splits * chosen.rows * chosen.tiles * _TILE <= scratch.sums.numel()
    x = aligned(x)
    given.x, given.tokens, given.pitch = x.data_ptr(), len(x), x.shape[1]
    given.sums, given.arrived = scratch.sums.data_ptr(), scratch.arrived.data_ptr()
    given.tiles, given.warps, given.splits = chosen.tiles, chosen.warps, chosen.splits
    given.early = starts_early(x.device)
    call("aweigh_int_multiply", given, x.device)


def aligned(x: torch.Tensor) -> torch.Tensor:
    """[T, K], copied with zeros behind each row where pieces of 16 bytes do not make rows."""
    if x.shape[1] % _ALIGNED:
        return pad(x, (0, -x.shape[1] % _ALIGNED))
    return x.clone() if x.data_ptr() % 16 else x


def call(name: str, given: Arguments, device: torch.device) -> None:
    """Launch a kernel of the library on the current stream.

    Raises:
        RuntimeError: CUDA refuses it.
    """
    kernels = library()
    assert kernels is not None, "products are made where the library is"
    stream = ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream)
    error = getattr(kernels, name)(ctypes.byref(given), stream)
    if error:
        raise RuntimeError(f"{name}: {_meaning(error)} on {device}")


def _meaning(error: int) -> str:
    kernels = library()
    assert kernels is not None
    kernels.aweigh_error.restype = ctypes.c_char_p
    return str(kernels.aweigh_error(error).decode())
