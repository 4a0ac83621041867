"""See `paged_attention_gpu`: what several requests have in common, for all of them at once.

The rows of a matrix are those of several requests that begin with the same blocks: a unit. All
units are split into equally many parts, as many as the GPU works on at a time, each of which leaves
what it has found for the join.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from aweigh_kernels.gpu.paged_attention import see_tiles

_OF_REQUESTS = ("firsts", "counts", "common", "members", "units", "table")
CHANGING = ("query_stride", "table_stride", "tokens_each", "most_units", "room", *_OF_REQUESTS)
LEAST_TILES = tl.constexpr(4)  # of a part, beside which joining it costs little


@triton.jit(do_not_specialize=CHANGING)
def attend_common(
    query,
    kv,
    partial,
    logs,
    firsts,
    counts,
    common,
    members,
    units,
    table,
    query_stride,
    table_stride,
    tokens_each,
    most_units,
    room,
    scale,
    value_scale,
    soft_cap,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_UP: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    CAPPED: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One part of what a unit has in common, for one head of keys."""
    SHARING: tl.constexpr = HEADS // KV_HEADS
    if EARLY:
        gdc_wait()
        # What each request has to itself is read where this kernel leaves processors idle.
        gdc_launch_dependents()
    head, program = tl.program_id(0), tl.program_id(1)
    num_units, splits = splits_of(units, most_units, room, UNITS)
    unit, split = program // splits, program % splits
    if unit < num_units:
        begins, num_members = tl.load(units + 2 * unit), tl.load(units + 2 * unit + 1)
        leader = tl.load(members + begins)
        length = tl.load(common + leader)
        each = tiles_each(length, splits, TILE) * TILE
        begin = split * each
        end = tl.minimum(begin + each, length)
        row = tl.arange(0, ROWS)
        member = row // (SHARING * tokens_each)
        token, shared = row // SHARING % tokens_each, row % SHARING
        there = member < num_members
        request = tl.load(members + begins + member, mask=there, other=0)
        first = tl.load(firsts + request, mask=there, other=0)
        wanted = there & (token < tl.load(counts + request, mask=there, other=0))
        if begin < end:
            own = query + (first + token).to(tl.int64) * query_stride
            own += (head * SHARING + shared) * SIZE
            blocks = table + leader.to(tl.int64) * table_stride
            high = row * 0 + end  # every row sees all of it
            found, total, most = see_tiles(
                own, wanted, kv + head * SIZE, blocks, (begin, end, 0, high), scale, soft_cap, 0,
                KV_HEADS, SIZE, SIZE_UP, ROWS, BLOCK, TILE, CAPPED, False,
            )  # fmt: skip
            number = tl.arange(0, SIZE_UP)
            place = (head * tl.num_programs(1) + program).to(tl.int64) * ROWS + row
            tl.store(
                partial + place[:, None] * SIZE + number[None, :],
                found * (value_scale / total)[:, None],
                mask=wanted[:, None] & (number < SIZE)[None, :],
            )
            tl.store(logs + place, most + tl.log2(total), mask=wanted)


@triton.jit
def splits_of(units, most_units, room, UNITS: tl.constexpr):
    """How many units there are, and into how many parts each is split."""
    unit = tl.arange(0, UNITS)
    num_members = tl.load(units + 2 * unit + 1, mask=unit < most_units, other=0)
    num_units = tl.sum((num_members > 0).to(tl.int32), 0)
    return num_units, tl.maximum(room // tl.maximum(num_units, 1), 1)


@triton.jit
def tiles_each(length, splits, TILE: tl.constexpr):
    """Tiles of each part of so many positions; the last parts may find nothing left."""
    return tl.maximum(tl.cdiv(tl.cdiv(length, TILE), splits), LEAST_TILES)
