"""Attention to what several requests have in common, on a GPU: it is read once for all of them.

The first half of `paged_attention_gpu` for requests that begin with the same blocks, known as
cascade attention (Ye et al. 2024). Which they are is found on the device, as all that a step reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton

from aweigh_kernels.common_reads import CommonReads
from aweigh_kernels.dense import NARROW
from aweigh_kernels.gpu.common_attention import attend_common
from aweigh_kernels.gpu.paged_join import join_common
from aweigh_kernels.gpus import Gpu

if TYPE_CHECKING:
    from aweigh_kernels.paged_attention_gpu import Reads

LEAST_MEMBERS = 4  # of a unit: for fewer, reading once costs more than it saves
_WIDE = 128  # numbers of a head, beyond which both sides of a matrix are halved
_WIDE_BYTES = 200 << 10  # of shared memory, as Hopper's, whose products need fewer registers
_PARTS = 16  # that are joined at once

Factors = tuple[float, float, float | None]  # of scores and of values; what scores are capped by


@dataclass(frozen=True)
class Schedule:
    """How programs work."""

    rows: int  # of one matrix
    tile: int  # positions that are read at once
    num_stages: int  # tiles on their way, and the one that is computed with
    num_warps: int = 8
    programs_each: int = 1  # of a multiprocessor: no more than fit there


@dataclass(frozen=True)
class Own:
    """What `attend_share` has found of each request for itself."""

    partial: torch.Tensor  # [places, D], fp32
    logs: torch.Tensor  # [places], fp32
    ends: torch.Tensor  # [S], int32: tiles of each request and of all before; else anything
    shares: int


@dataclass(frozen=True)
class Found:
    """What was found of all units, for the join."""

    partial: torch.Tensor  # [K, programs, rows, D], fp32
    logs: torch.Tensor  # [K, programs, rows], fp32
    constants: Mapping[str, int]  # COMMON_ROWS, COMMON_TILE, UNITS
    room: int  # programs for each head of keys that the GPU works on at a time


def unit_members(heads: tuple[int, int], size: int, tokens_each: int) -> int:
    """Requests of a unit, at most; 0: requests of such a step are read one by one.

    Args:
        heads: of queries and of keys.
        size: numbers of a head.
        tokens_each: of a request, at most.
    """
    found = _rows_of(size) // (heads[0] // heads[1] * tokens_each)
    return found if found >= LEAST_MEMBERS else 0


def expect_common(
    query: torch.Tensor, kv: torch.Tensor, reads: "Reads", common: CommonReads
) -> None:
    """Refuse what was laid out for other tensors.

    Raises:
        ValueError: says for which.
    """
    heads = query.shape[1], kv.shape[2] // 2
    members = unit_members(heads, query.shape[2], reads.most_tokens)
    if not members or common.unit_members != members:
        raise ValueError(
            f"units have {common.unit_members} members; expected {members}, as `unit_members` says "
            f"of {heads[0]} and {heads[1]} heads of {query.shape[2]} numbers and "
            f"{reads.most_tokens} tokens (0: read what is in common for each request)"
        )
    if reads.window is not None or query.dtype not in NARROW:
        raise ValueError(
            f"query is {query.dtype}, with a window of {reads.window}; expected 16 bits and no "
            "window where requests have something in common: leave `common` out"
        )


def schedule(size: int, gpu: Gpu) -> Schedule:
    """For heads of so many numbers."""
    if gpu.shared_bytes >= _WIDE_BYTES:
        return Schedule(_rows_of(size), 64 if size <= _WIDE else 32, 3)
    return Schedule(_rows_of(size), 32, 2)


def launch(
    query: torch.Tensor,
    kv: torch.Tensor,
    reads: "Reads",
    common: CommonReads,
    factors: Factors,
    gpu: Gpu,
) -> Found:
    """Let all tokens of all units attend to what their requests have in common.

    Args:
        query: [T, H, D], fp16 or bf16.
        kv: [B, P, 2K, D].
        reads: which tokens.
        common: what they have in common.
        factors: as `attend_share` takes them.
        gpu: that computes.
    """
    _, block_tokens, kv_rows, size = kv.shape
    kv_heads, chosen = kv_rows // 2, schedule(size, gpu)
    found = _room_for(query, kv_heads, len(common.units), chosen, gpu)
    scale, value_scale, soft_cap = factors
    attend_common[tuple(found.logs.shape[:2])](
        query,
        kv,
        found.partial,
        found.logs,
        reads.firsts,
        reads.counts,
        common.positions,
        common.members,
        common.units,
        reads.table,
        query.stride(0),
        reads.table.stride(0),
        reads.most_tokens,
        len(common.units),
        found.room,
        scale,
        value_scale,
        soft_cap or 0.0,
        HEADS=query.shape[1],
        KV_HEADS=kv_heads,
        SIZE=size,
        SIZE_UP=triton.next_power_of_2(size),
        ROWS=chosen.rows,
        UNITS=found.constants["UNITS"],
        BLOCK=block_tokens,
        TILE=chosen.tile,
        CAPPED=soft_cap is not None,
        EARLY=gpu.early,
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
        launch_pdl=gpu.early,
    )
    return found


def _room_for(
    query: torch.Tensor, kv_heads: int, most_units: int, chosen: Schedule, gpu: Gpu
) -> Found:
    """What nobody has found yet."""
    room = max(1, chosen.programs_each * gpu.num_processors // kv_heads)
    size = kv_heads, max(room, most_units), chosen.rows
    units_up = triton.next_power_of_2(most_units)
    return Found(
        partial=query.new_empty((*size, query.shape[2]), dtype=torch.float32),
        logs=query.new_empty(size, dtype=torch.float32),
        constants={"COMMON_ROWS": chosen.rows, "COMMON_TILE": chosen.tile, "UNITS": units_up},
        room=room,
    )


def join(
    output: torch.Tensor,
    own: Own,
    found: Found,
    reads: "Reads",
    common: CommonReads,
    constants: Mapping[str, object],
) -> None:
    """Make one of what was found of units and of each request for itself.

    Args:
        output: [T, H, D].
        own: of each request.
        found: of units.
        reads: which tokens.
        common: what they have in common.
        constants: of `attend_share`.
    """
    heads, kv_heads = output.shape[1], found.partial.shape[0]
    join_common[(kv_heads, reads.num_requests, heads // kv_heads * reads.most_tokens)](
        output,
        own.partial,
        own.logs,
        found.partial,
        found.logs,
        reads.firsts,
        reads.counts,
        reads.seen,
        common.positions,
        own.ends,
        common.places,
        common.units,
        reads.num_requests,
        own.shares,
        reads.most_tokens,
        len(common.units),
        found.partial.shape[1],
        found.room,
        **{name: value for name, value in constants.items() if name != "REQUESTS"},
        **found.constants,
        PARTS=_PARTS,
        num_warps=2,
        launch_pdl=constants["EARLY"],
    )


def _rows_of(size: int) -> int:
    return 128 if size <= _WIDE else 64
