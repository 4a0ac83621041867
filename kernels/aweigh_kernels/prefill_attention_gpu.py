"""Causal attention of prompts over a paged cache, on a GPU.

All chunks of a step are computed by one launch, however long each is and however much of it is
cached. Heads of queries that share a head of keys are rows of one matrix, so that keys and values
are read once for all of them. Tiles of rows that see most are computed first: those that see little
fill up what is left of the GPU at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import gcd

import numpy as np
import numpy.typing as npt
import torch
import triton
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from aweigh_kernels.checks import expect
from aweigh_kernels.gpu.prefill_attention import attend_tile
from aweigh_kernels.gpu.prefill_attention_hopper import (
    COLUMNS,
    POSITIONS,
    ROWS,
    SWIZZLED,
    attend_items,
)
from aweigh_kernels.gpus import Gpu

_DTYPES = (torch.bfloat16, torch.float16)
_FP8 = torch.float8_e4m3fn
_SIZES = range(16, 257)  # of heads
_HOPPER = (9, 0)
_HOPPER_SIZES = (64, 128)
_LEAST_BOX = 8  # tokens of a block, of which a swizzle's pattern consists
_WIDE = 128  # heads of more numbers are computed in smaller tiles

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tiles:
    """New tokens of some requests, in tiles, and what they see: the same for all layers.

    The tokens of a request are consecutive rows, and each sees one position more than the one
    before it, itself included.
    """

    tiles: torch.Tensor  # [n, 4], int32: request, first row, positions before it, how many rows
    table: torch.Tensor  # [S, W], int32: blocks of each request
    tokens: int  # of a tile, at most
    window: int | None = None  # positions that a token sees at most; None: all

    @classmethod
    def of(
        cls,
        rows: tuple[Sequence[int], Sequence[int], Sequence[int]],
        table: Integers,
        tokens: int,
        window: int | None,
        device: torch.device,
    ) -> "Tiles":
        """Bring it to the device, in one copy that the host does not wait for.

        Args:
            rows: of each request: its first row, how many rows, how many positions before them.
            table: [S, W], blocks of each request.
            tokens: of a tile, at most: `tile_tokens`.
            window: positions that a token sees at most.
            device: of the cache.
        """
        firsts, counts, before = (np.array(each, np.int64) for each in rows)
        tiles = _tiles(firsts, counts, before, tokens, window)
        packed = torch.from_numpy(np.concatenate([tiles.ravel(), table.ravel()]).astype(np.int32))
        if device.type == "cuda" and len(tiles):
            packed = packed.pin_memory()
        packed = packed.to(device, non_blocking=True) if len(tiles) else packed
        split = tiles.size
        return cls(packed[:split].view(-1, 4), packed[split:].view(table.shape), tokens, window)


def takes(query: torch.Tensor, kv: torch.Tensor) -> bool:
    """Whether `attend` computes with such tensors; if not, torch must.

    Args:
        query: [T, H, D].
        kv: [B, P, 2K, D], keys first.
    """
    size, sharing = query.shape[-1], query.shape[1] // (kv.shape[2] // 2)
    return (
        query.is_cuda
        and kv.is_cuda
        and query.dtype in _DTYPES
        and kv.dtype in (query.dtype, _FP8)
        and size in _SIZES
        and sharing <= rows_of(size)
        and not (torch.is_grad_enabled() and query.requires_grad)
        and _capability(query.device) >= (8, 9 if kv.dtype == _FP8 else 0)
    )


def tile_tokens(query: torch.Tensor, kv: torch.Tensor) -> int:
    """How many new tokens of a request make a tile of rows for such tensors."""
    return rows_of(query.shape[-1]) // (query.shape[1] // (kv.shape[2] // 2))


def attend(  # noqa: PLR0913 - what attention is
    query: torch.Tensor,
    kv: torch.Tensor,
    tiles: Tiles,
    scale: float,
    output: torch.Tensor,
    *,
    soft_cap: float | None = None,
    kv_scales: tuple[float, float] = (1.0, 1.0),
) -> None:
    """Let the tokens of prompts attend to themselves and to what is before them.

    Args:
        query: [T, H, D], of which `takes` says that it can be computed; tokens may lie apart.
        kv: [B, P, 2K, D], contiguous, keys first; H is a multiple of K. As query, or fp8 (e4m3).
            The tokens' own keys and values are in it. What a request's blocks hold is finite, also
            where nothing was stored yet.
        tiles: which tokens, and what they see; rows and blocks that there are.
        scale: of the scores; more than 0.
        output: [T, H, D], contiguous, as query; only the tokens' rows are written.
        soft_cap: scores become cap · tanh(score / cap).
        kv_scales: by which keys and values are multiplied.

    Raises:
        ValueError: shapes, number formats, strides or tiles are others.
    """
    _expect(query, kv, tiles, output)
    if len(tiles.tiles):
        launch = _launch_hopper if _on_hopper(query, kv) else _launch
        launch(query, kv, tiles, output, scale * kv_scales[0], kv_scales[1], soft_cap)


def rows_of(size: int) -> int:
    """Rows of a tile, for heads of so many numbers."""
    return ROWS if size <= _WIDE else 64


def positions_of(size: int, *, many_registers: bool = False) -> int:
    """Positions that are read at once, for heads of so many numbers.

    Args:
        size: D.
        many_registers: capped scores and numbers that are widened need some more where operands
            lie in registers: before Hopper.
    """
    return 32 if many_registers or size > _WIDE else 64


def _expect(query: torch.Tensor, kv: torch.Tensor, tiles: Tiles, output: torch.Tensor) -> None:
    heads, size = query.shape[1:]
    if kv.dtype not in (query.dtype, _FP8) or heads % (kv.shape[2] // 2):
        raise ValueError(
            f"kv is {kv.dtype} {list(kv.shape)} for query {query.dtype} {list(query.shape)}; "
            "expected the same numbers or fp8, and heads that are shared evenly"
        )
    expect("query", query, [[len(query), heads, size]], list(_DTYPES))
    expect("kv", kv, [[*kv.shape[:3], size]], [kv.dtype])
    expect("output", output, [query.shape], [query.dtype])
    for name, tensor in (("query", query[:1]), ("kv", kv), ("output", output)):
        if not tensor.is_contiguous():
            raise ValueError(f"{name} has strides {list(tensor.stride())}; expected dense heads")
    if tiles.tokens != tile_tokens(query, kv):
        raise ValueError(
            f"tiles are of {tiles.tokens} tokens; expected {tile_tokens(query, kv)}, as "
            "`tile_tokens` says"
        )


def _launch(  # noqa: PLR0913 - what the kernel takes
    query: torch.Tensor,
    kv: torch.Tensor,
    tiles: Tiles,
    output: torch.Tensor,
    scale: float,
    value_scale: float,
    soft_cap: float | None,
) -> None:
    _, block_tokens, kv_rows, size = kv.shape
    more = soft_cap is not None or kv.dtype == _FP8
    demanding = more and _capability(query.device) < _HOPPER
    attend_tile[(len(tiles.tiles) * kv_rows // 2,)](
        query,
        kv,
        output,
        tiles.tiles,
        tiles.table,
        query.stride(0),
        tiles.table.stride(0),
        scale,
        value_scale,
        soft_cap or 0.0,
        tiles.window or 0,
        HEADS=query.shape[1],
        KV_HEADS=kv_rows // 2,
        SIZE=size,
        SIZE_UP=triton.next_power_of_2(size),
        ROWS=rows_of(size),
        BLOCK=block_tokens,
        TILE=positions_of(size, many_registers=demanding),
        CAPPED=soft_cap is not None,
        WINDOWED=tiles.window is not None,
        num_warps=8,
        num_stages=2,
    )


def _on_hopper(query: torch.Tensor, kv: torch.Tensor) -> bool:
    """Whether Hopper's kernel computes with such tensors."""
    return (
        _capability(query.device) == _HOPPER
        and kv.dtype == query.dtype
        and query.shape[-1] in _HOPPER_SIZES
        and kv.shape[1] % _LEAST_BOX == 0
        and query.stride(0) % 8 == 0
        and query.data_ptr() % 16 == 0
    )


def _launch_hopper(  # noqa: PLR0913 - what the kernel takes
    query: torch.Tensor,
    kv: torch.Tensor,
    tiles: Tiles,
    output: torch.Tensor,
    scale: float,
    value_scale: float,
    soft_cap: float | None,
) -> None:
    num_blocks, block_tokens, kv_rows, size = kv.shape
    num_items = len(tiles.tiles) * kv_rows // 2
    rows = kv.view(num_blocks * block_tokens, kv_rows * size)
    box = [gcd(block_tokens, POSITIONS), COLUMNS]
    attend_items[(min(num_items, Gpu.of(query.device).num_processors),)](
        TensorDescriptor.from_tensor(rows, box, SWIZZLED),
        query,
        output,
        tiles.tiles,
        tiles.table,
        num_items,
        query.stride(0),
        tiles.table.stride(0),
        scale,
        value_scale,
        soft_cap or 0.0,
        tiles.window or 0,
        HEADS=query.shape[1],
        KV_HEADS=kv_rows // 2,
        SIZE=size,
        BLOCK=block_tokens,
        CAPPED=soft_cap is not None,
        WINDOWED=tiles.window is not None,
        num_warps=4,
    )


def _tiles(
    firsts: Integers, counts: Integers, before: Integers, tokens: int, window: int | None
) -> Integers:
    """[n, 4]: those that see most first."""
    each = -(-counts // tokens)
    request = np.repeat(np.arange(len(counts)), each)
    begun = (np.arange(len(request)) - np.repeat(np.cumsum(each) - each, each)) * tokens
    count = np.minimum(counts[request] - begun, tokens)
    earlier = before[request] + begun
    tiles = np.stack([request, firsts[request] + begun, earlier, count], 1)
    seen = earlier + count
    if window is not None:
        seen = np.minimum(seen, window + count)
    return tiles[np.argsort(-seen, kind="stable")]


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
