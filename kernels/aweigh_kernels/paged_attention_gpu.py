"""Attention of a few tokens of each request over a paged cache, on a GPU (Triton).

All heads of queries that share a head of keys, and all new tokens of a request, are the rows of one
matrix: what they see is read once. All that is seen is divided evenly among as many programs as the
GPU works on at a time; where that splits what one request sees, a second, small kernel joins the
parts (Flash-Decoding, Dao et al. 2023; even shares as stream-K's, Osama et al. 2023).

Programs find their share on the device: a launch depends on shapes alone, so that a CUDA graph that
was recorded once follows whatever `Reads` holds when it is replayed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from math import e, log2
from typing import Any

import torch
import triton

from aweigh_kernels import common_attention_gpu
from aweigh_kernels.checks import expect
from aweigh_kernels.common_reads import CommonReads
from aweigh_kernels.gpu.paged_attention import attend_share
from aweigh_kernels.gpu.paged_join import join
from aweigh_kernels.gpus import Gpu

MOST_ROWS = 128  # of one matrix: heads that share keys, times new tokens
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_FP8 = torch.float8_e4m3fn
_LEAST_ROWS = 16  # that a tensor core takes
_FEW_ROWS = 32  # of which a program holds all that it found in registers, and what is on its way
_MOST_TILE = 128  # positions that are read at once,
_TILE_BYTES = (32 << 10, 64 << 10)  # of keys and values
WIDE_BYTES = 160 << 10  # of shared memory, which broad tiles need
SPILLED_BYTES = 96  # of a thread at most, with 64 rows and more, on others than Hopper
_PARTS = 16  # that are joined at once


@dataclass(frozen=True)
class Schedule:
    """How programs work."""

    tile: int  # positions that are read at once
    num_stages: int  # tiles on their way, and the one that is computed with
    shares_each: int  # programs of a multiprocessor: no more than fit there
    num_warps: int = 4

    def num_shares(self, kv_heads: int, gpu: Gpu) -> int:
        """Into how many what is seen is divided for each head of keys."""
        return max(1, self.shares_each * gpu.num_processors // kv_heads)


@dataclass(frozen=True)
class Reads:
    """Requests, and what their tokens see: the same for all layers, on the device.

    The tokens of a request are consecutive rows, and each sees one position more than the one
    before it, itself included. It may change between replays of a graph, but the kernel that is
    launched right before `attend` must not write it: it is read while that one ends.
    """

    firsts: torch.Tensor  # [S], int32: the first row of each request
    counts: torch.Tensor  # [S], int32: how many rows; 0: padding, which sees nothing
    seen: (
        torch.Tensor
    )  # [S], int32: positions that the first one sees, were there no window; 0: padding
    table: torch.Tensor  # [S, W], int32: blocks of each request
    most_tokens: int  # the largest of `counts` that there may be
    window: int | None = None  # positions that a token sees at most; None: all
    common: CommonReads | None = None  # what requests have in common, where that is read once

    @classmethod
    def of(
        cls,
        rows: tuple[Sequence[int], Sequence[int], Sequence[int]],
        table: torch.Tensor,
        window: int | None,
        device: torch.device,
    ) -> "Reads":
        """Bring it to the device, in one copy.

        Args:
            rows: firsts, counts, seen.
            table: [S, W], integers on the host.
            window: positions that a token sees at most.
            device: of the cache.
        """
        firsts, counts, seen = (list(map(int, each)) for each in rows)
        size = len(firsts)
        packed = torch.cat(
            (
                torch.tensor([firsts, counts, seen], dtype=torch.int32).flatten(),
                table.flatten().int(),
            )
        )
        if device.type == "cuda":  # which takes it in its own time: nobody waits for it
            packed = packed.pin_memory()
        packed = packed.to(device, non_blocking=True)
        of_rows = packed[: 3 * size].view(3, size)
        blocks = packed[3 * size :].view(size, -1) if size else packed.view(0, 0)
        return cls(of_rows[0], of_rows[1], of_rows[2], blocks, max(counts, default=0), window)

    @cached_property
    def num_requests(self) -> int:
        """S."""
        return len(self.firsts)


def takes(query: torch.Tensor, kv: torch.Tensor, most_tokens: int) -> bool:
    """Whether `attend` computes with such tensors; if not, torch must.

    Args:
        query: [T, H, D].
        kv: [B, P, 2K, D], keys first.
        most_tokens: of one request.
    """
    rows = query.shape[1] // (kv.shape[2] // 2) * most_tokens
    kept = kv.dtype == query.dtype or kv.dtype == _FP8
    return (
        query.is_cuda
        and kv.is_cuda
        and query.dtype in _DTYPES
        and kept
        and 16 <= query.shape[-1] <= 256
        and rows <= MOST_ROWS
        and _capability(query.device) >= (8, 9 if kv.dtype == _FP8 else 0)
    )


def attend(  # noqa: PLR0913 - what attention is
    query: torch.Tensor,
    kv: torch.Tensor,
    reads: Reads,
    scale: float,
    output: torch.Tensor,
    *,
    soft_cap: float | None = None,
    kv_scales: tuple[float, float] = (1.0, 1.0),
) -> None:
    """Let some tokens attend to what they see.

    Args:
        query: [T, H, D], of which `takes` says that it can be computed; tokens may lie apart.
            T may be more than there are: what belongs to no request is neither read nor written.
        kv: [B, P, 2K, D], contiguous, keys first; H is a multiple of K. As query, or fp8 (e4m3).
        reads: which tokens, and what they see; rows and blocks that there are.
        scale: of the scores.
        output: [T, H, D], contiguous, as query; only the tokens' rows are written.
        soft_cap: scores become cap · tanh(score / cap).
        kv_scales: by which keys and values are multiplied.

    Raises:
        ValueError: shapes, number formats or strides are others, or what requests have in common
            is not laid out for such tensors.
    """
    num_blocks, block_tokens, kv_rows, size = kv.shape
    heads, kv_heads = query.shape[1], kv_rows // 2
    if heads % kv_heads or kv.dtype not in (query.dtype, _FP8):
        raise ValueError(
            f"kv is {kv.dtype} {list(kv.shape)} for query {query.dtype} {list(query.shape)}; "
            "expected the same numbers or fp8, and heads that are shared evenly"
        )
    expect("query", query, [[len(query), heads, size]], list(_DTYPES))
    expect("kv", kv, [[num_blocks, block_tokens, kv_rows, size]], [kv.dtype])
    expect("output", output, [query.shape], [query.dtype])
    for name, tensor in (("query", query[:1]), ("kv", kv), ("output", output)):
        if not tensor.is_contiguous():
            raise ValueError(f"{name} has strides {list(tensor.stride())}; expected dense heads")
    if reads.common is not None:
        common_attention_gpu.expect_common(query, kv, reads, reads.common)
    if not reads.num_requests:
        return
    scale *= kv_scales[0]
    if soft_cap is None:
        scale *= log2(e)  # weights are powers of 2
    _launch(query, kv, reads, output, (scale, kv_scales[1], soft_cap))


def schedule(rows: int, position_bytes: int, num_lines: int, gpu: Gpu) -> Schedule:
    """What is fastest on an H200 (docs/kernels/paged-attention-gpu.md), by shape alone.

    Args:
        rows: of one matrix.
        position_bytes: of a head's keys and values of one position.
        num_lines: requests times heads of keys.
        gpu: that computes.
    """
    narrow, broad = (
        max(16, min(_MOST_TILE, num_bytes // position_bytes)) for num_bytes in _TILE_BYTES
    )
    if rows > _FEW_ROWS:
        return Schedule(min(narrow, 64), 2, 2)
    if gpu.shared_bytes >= WIDE_BYTES and broad > narrow:
        if 4 * num_lines <= gpu.num_processors:
            return Schedule(narrow, 5, 1)
        if num_lines <= gpu.num_processors and rows == _LEAST_ROWS:
            return Schedule(broad, 3, 1)
    return Schedule(narrow, 3, 2)


def requests_of(num_requests: int) -> int:
    """Requests that a compiled kernel takes: four kinds are enough for up to 1,024."""
    return next((each for each in (1, 16, 128, 1024) if num_requests <= each), 0) or int(
        triton.next_power_of_2(num_requests)
    )


def kinds(
    heads: tuple[int, int], position_bytes: int, most: tuple[int, int], gpu: Gpu
) -> list[tuple[int, int]]:
    """Steps for which all kernels are compiled that any step may need.

    Args:
        heads: of queries and of keys.
        position_bytes: of a head's keys and values of one position.
        most: requests of a step, and tokens of a request.
        gpu: that computes.

    Returns:
        requests, and the tokens of the one that has most.
    """
    found: dict[object, tuple[int, int]] = {}
    for requests, tokens in product(range(1, most[0] + 1), range(1, most[1] + 1)):
        if heads[0] // heads[1] * tokens <= MOST_ROWS:
            rows = _rows_of(*heads, tokens)
            chosen = schedule(rows, position_bytes, requests * heads[1], gpu)
            found.setdefault((rows, requests_of(requests), chosen), (requests, tokens))
    return list(found.values())


def bytes_of_position(size: int, dtype: torch.dtype) -> int:
    """Of a head's keys and values, as tiles hold them."""
    return 2 * int(triton.next_power_of_2(size)) * dtype.itemsize


def _rows_of(heads: int, kv_heads: int, tokens: int) -> int:
    return max(_LEAST_ROWS, int(triton.next_power_of_2(heads // kv_heads * tokens)))


def _launch(
    query: torch.Tensor,
    kv: torch.Tensor,
    reads: Reads,
    output: torch.Tensor,
    factors: common_attention_gpu.Factors,
) -> None:
    heads, kv_heads, size = query.shape[1], kv.shape[2] // 2, kv.shape[3]
    rows = _rows_of(heads, kv_heads, reads.most_tokens)
    gpu = Gpu.of(query.device)
    position_bytes = bytes_of_position(size, kv.dtype)
    chosen = schedule(rows, position_bytes, reads.num_requests * kv_heads, gpu)
    constants = {
        "HEADS": heads,
        "KV_HEADS": kv_heads,
        "SIZE": size,
        "SIZE_UP": triton.next_power_of_2(size),
        "ROWS": rows,
        "REQUESTS": requests_of(reads.num_requests),
        "TILE": chosen.tile,
        "EARLY": gpu.early,
    }
    how = chosen, chosen.num_shares(kv_heads, gpu), constants
    if reads.common is None:
        _join(output, _attend_shares(query, kv, reads, output, factors, how), reads, constants)
        return
    found = common_attention_gpu.launch(query, kv, reads, reads.common, factors, gpu)
    own = _attend_shares(query, kv, reads, output, factors, how)
    common_attention_gpu.join(output, own, found, reads, reads.common, constants)


def _attend_shares(
    query: torch.Tensor,
    kv: torch.Tensor,
    reads: Reads,
    output: torch.Tensor,
    factors: common_attention_gpu.Factors,
    how: tuple[Schedule, int, Mapping[str, Any]],
) -> common_attention_gpu.Own:
    scale, value_scale, soft_cap = factors
    chosen, shares, constants = how
    kv_heads, common = constants["KV_HEADS"], reads.common
    # Two for each share, which may end one request and begin another; then one for each row.
    places = 2 * kv_heads * shares * constants["ROWS"]
    places += 0 if common is None else len(query) * constants["HEADS"]
    partial = query.new_empty((places, constants["SIZE"]), dtype=torch.float32)
    logs = query.new_empty(places, dtype=torch.float32)
    ends = reads.seen if common is None else torch.empty_like(reads.seen)
    paired = kv.dtype == _FP8 and query.dtype != torch.float32
    attend_share[(kv_heads, shares)](
        query,
        kv.view(torch.int16) if paired else kv,
        output,
        partial,
        logs,
        reads.firsts,
        reads.counts,
        reads.seen,
        reads.seen if common is None else common.positions,
        ends,
        reads.table,
        query.stride(0),
        reads.table.stride(0),
        reads.num_requests,
        shares,
        scale,
        value_scale,
        soft_cap or 0.0,
        reads.window or 0,
        **constants,
        BLOCK=kv.shape[1],
        CAPPED=soft_cap is not None,
        WINDOWED=reads.window is not None,
        COMMON=common is not None,
        PAIRED=paired,
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
        launch_pdl=constants["EARLY"],
    )
    return common_attention_gpu.Own(partial, logs, ends, shares)


def _join(
    output: torch.Tensor,
    own: common_attention_gpu.Own,
    reads: Reads,
    constants: Mapping[str, Any],
) -> None:
    kv_heads, sharing = constants["KV_HEADS"], constants["HEADS"] // constants["KV_HEADS"]
    most_joined = min(reads.num_requests, own.shares)
    join[(kv_heads, most_joined, sharing * reads.most_tokens)](
        output,
        own.partial,
        own.logs,
        reads.firsts,
        reads.counts,
        reads.seen,
        reads.num_requests,
        own.shares,
        reads.window or 0,
        **constants,
        WINDOWED=reads.window is not None,
        PARTS=_PARTS,
        BY_SHARE=reads.num_requests > own.shares,
        num_warps=2,
        launch_pdl=constants["EARLY"],
    )


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
