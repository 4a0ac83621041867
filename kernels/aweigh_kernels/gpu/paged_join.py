"""See `paged_attention_gpu`: what several programs have found for one row becomes one."""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from aweigh_kernels.gpu.common_attention import splits_of, tiles_each
from aweigh_kernels.gpu.paged_attention import (
    common_of,
    place_of,
    request_of,
    through_of,
    tiles_of,
    whole_of,
)

_OF_REQUESTS = ("firsts", "counts", "seen", "common", "ends", "places", "units")
_CHANGING = ("num_requests", "shares", "window", *_OF_REQUESTS[:3])
_OF_UNITS = ("tokens_each", "most_units", "programs", "room")
_OF_COMMON = ("num_requests", "shares", *_OF_UNITS, *_OF_REQUESTS)


@triton.jit(do_not_specialize=_CHANGING)
def join(
    output,
    partial,
    logs,
    firsts,
    counts,
    seen,
    num_requests,
    shares,
    window,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_UP: tl.constexpr,
    ROWS: tl.constexpr,
    REQUESTS: tl.constexpr,
    TILE: tl.constexpr,
    WINDOWED: tl.constexpr,
    PARTS: tl.constexpr,
    BY_SHARE: tl.constexpr,
    EARLY: tl.constexpr,
):
    """What several shares found for one row, each by how much it weighs."""
    SHARING: tl.constexpr = HEADS // KV_HEADS
    through = through_of(
        counts, seen, counts, num_requests, window, REQUESTS, TILE, WINDOWED, False
    )
    all_tiles = tl.max(through, 0)
    each = tl.maximum(tl.cdiv(all_tiles, shares), 1)
    head, row = tl.program_id(0), tl.program_id(2)
    at, request = 0, tl.program_id(1)
    if BY_SHARE:  # the request in which a share begins
        at = request * each
        request, before = request_of(through, at)
    else:
        before = tl.max(tl.where(tl.arange(0, REQUESTS) < request, through, 0), 0)
    there = (at < all_tiles) & (request < num_requests)
    count = tl.load(counts + request, mask=there, other=0)
    visible = tl.load(seen + request, mask=there, other=0)
    tiles = tiles_of(count, visible, 0, window, TILE, WINDOWED)
    first_share = before // each
    last_share = (before + tiles - 1) // each
    token, shared = row // SHARING, row % SHARING
    joins = (token < count) & (first_share < last_share)
    if BY_SHARE:
        joins &= last_share * each == at  # who ends them joins them
    if EARLY:
        gdc_wait()
        # Not sooner: what comes next would find room only where shares end first, and crowd there.
        gdc_launch_dependents()
    if joins:
        numbers = tl.arange(0, SIZE_UP)
        most = -1e30
        total = 0.0
        joined = tl.zeros([SIZE_UP], tl.float32)
        for part in range(first_share, last_share + 1, PARTS):
            own = part + tl.arange(0, PARTS)
            place = place_of(head * shares + own, own * each <= before, ROWS) + row
            most, total, joined = _more(
                partial, logs, place, own <= last_share, most, total, joined, SIZE, SIZE_UP
            )
        first = tl.load(firsts + request)
        to = ((first + token).to(tl.int64) * HEADS + head * SHARING + shared) * SIZE
        joined = (joined / total).to(output.dtype.element_ty)
        tl.store(output + to + numbers, joined, mask=numbers < SIZE)


@triton.jit(do_not_specialize=_OF_COMMON)
def join_common(
    output,
    partial,
    logs,
    common_partial,
    common_logs,
    firsts,
    counts,
    seen,
    common,
    ends,
    places,
    units,
    num_requests,
    shares,
    tokens_each,
    most_units,
    programs,
    room,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_UP: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    COMMON_ROWS: tl.constexpr,
    COMMON_TILE: tl.constexpr,
    UNITS: tl.constexpr,
    PARTS: tl.constexpr,
    EARLY: tl.constexpr,
):
    """The same where requests have something in common: of each row, and of both kernels."""
    SHARING: tl.constexpr = HEADS // KV_HEADS
    head, request, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    count, first = tl.load(counts + request), tl.load(firsts + request)
    elsewhere = common_of(common, request, True, True)
    tiles = tiles_of(count, tl.load(seen + request), elsewhere, 0, TILE, False)
    token, shared = row // SHARING, row % SHARING
    of_output = (first + token).to(tl.int64) * HEADS + head * SHARING + shared
    _, splits = splits_of(units, most_units, room, UNITS)
    of_member = SHARING * tokens_each
    place = tl.load(places + request)
    unit, member = place // (COMMON_ROWS // of_member), place % (COMMON_ROWS // of_member)
    parts = tl.cdiv(elsewhere, tiles_each(elsewhere, splits, COMMON_TILE) * COMMON_TILE)
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()
    each = tl.maximum(tl.cdiv(tl.load(ends + num_requests - 1), shares), 1)
    before = tl.load(ends + request) - tiles
    first_share = before // each
    last_share = tl.where(tiles > 0, (before + tiles - 1) // each, first_share - 1)
    if (token < count) & ((elsewhere > 0) | (first_share < last_share)):
        numbers = tl.arange(0, SIZE_UP)
        most = -1e30
        total = 0.0
        joined = tl.zeros([SIZE_UP], tl.float32)
        for part in range(0, parts, PARTS):
            own = part + tl.arange(0, PARTS)
            at = (head * programs + unit * splits + own).to(tl.int64) * COMMON_ROWS
            at += member * of_member + row
            most, total, joined = _more(
                common_partial, common_logs, at, own < parts, most, total, joined, SIZE, SIZE_UP
            )
        whole = whole_of(KV_HEADS * shares, ROWS) + of_output
        for part in range(first_share, last_share + 1, PARTS):
            own = part + tl.arange(0, PARTS)
            at = place_of(head * shares + own, own * each <= before, ROWS) + row
            at = tl.where(first_share == last_share, whole, at)
            most, total, joined = _more(
                partial, logs, at, own <= last_share, most, total, joined, SIZE, SIZE_UP
            )
        joined = (joined / total).to(output.dtype.element_ty)
        tl.store(output + of_output * SIZE + numbers, joined, mask=numbers < SIZE)


@triton.jit
def _more(
    partial, logs, place, exists, most, total, joined, SIZE: tl.constexpr, SIZE_UP: tl.constexpr
):
    """What was joined before, and some parts: their sum, of what weights, and their scale."""
    numbers = tl.arange(0, SIZE_UP)
    log = tl.load(logs + place, mask=exists, other=-1e30)
    means = tl.load(
        partial + place[:, None] * SIZE + numbers[None, :],
        mask=exists[:, None] & (numbers < SIZE)[None, :],
        other=0.0,
    )
    more = tl.maximum(most, tl.max(log, 0))
    weights = tl.where(exists, tl.exp2(log - more), 0.0)
    kept = tl.exp2(most - more)
    total = total * kept + tl.sum(weights, 0)
    joined = joined * kept + tl.sum(means * weights[:, None], 0)
    return more, total, joined
