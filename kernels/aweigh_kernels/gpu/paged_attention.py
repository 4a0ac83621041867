"""See `paged_attention_gpu`.

All that requests see is one line of tiles: request after request, head of keys after head, position
after position. Each program takes an equal share of it, so that lengths on the device alone say who
reads what. Tiles come through shared memory while earlier ones are computed with; a running maximum
(Milakov and Gimelshein 2018) scales what was summed before.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

# Kernels are compiled for constants alone, never for what changes from step to step: neither for
# sizes that happen to be 1 or multiples of 16, nor for where arrays of a step begin.
_OF_REQUESTS = ("firsts", "counts", "seen", "table")
CHANGING = ("query_stride", "table_stride", "num_requests", "shares", "window", *_OF_REQUESTS)


@triton.jit(do_not_specialize=CHANGING)
def attend_share(
    query,
    kv,
    output,
    partial,
    logs,
    firsts,
    counts,
    seen,
    table,
    query_stride,
    table_stride,
    num_requests,
    shares,
    scale,
    value_scale,
    soft_cap,
    window,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_UP: tl.constexpr,
    ROWS: tl.constexpr,
    REQUESTS: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    LEAST: tl.constexpr,
    CAPPED: tl.constexpr,
    WINDOWED: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One share: the end of one row of tiles, some whole ones, the beginning of another."""
    SHARING: tl.constexpr = HEADS // KV_HEADS
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    through = _through(counts, seen, num_requests, window, REQUESTS, TILE, WINDOWED)
    all_tiles = tl.max(through, 0) * KV_HEADS
    each = tl.maximum(tl.cdiv(all_tiles, shares), LEAST)
    share = tl.program_id(0)
    at = share * each
    stop = tl.minimum(at + each, all_tiles)
    row = tl.arange(0, ROWS)
    token, shared = row // SHARING, row % SHARING
    numbers = tl.arange(0, SIZE_UP)
    inside = numbers < SIZE
    while at < stop:
        request, before = _request_of(through, at, KV_HEADS)
        count, first = tl.load(counts + request), tl.load(firsts + request)
        visible = tl.load(seen + request)
        tiles = _tiles(count, visible, window, TILE, WINDOWED)
        head, tile = (at - before) // tiles, (at - before) % tiles
        taken = tl.minimum(tiles - tile, stop - at)

        wanted = token < count
        known = wanted[:, None] & inside[None, :]
        own = (first + token).to(tl.int64) * query_stride + (head * SHARING + shared) * SIZE
        q = tl.load(query + own[:, None] + numbers[None, :], mask=known, other=0.0)
        low = _low(visible, window, WINDOWED)  # what is before it may be another request's
        begin = (low // TILE + tile) * TILE
        end = tl.minimum(begin + taken * TILE, visible + count - 1)
        high = visible + token  # what a row sees ends there
        most = tl.full([ROWS], -1e29, tl.float32)  # far above what hidden scores become
        total = tl.zeros([ROWS], tl.float32)
        found = tl.zeros([ROWS, SIZE_UP], tl.float32)
        blocks = table + request.to(tl.int64) * table_stride
        ahead = begin + tl.arange(0, TILE)
        block = tl.load(blocks + ahead // BLOCK, mask=(ahead >= low) & (ahead < end), other=0)
        for start in range(begin, end, TILE):
            position = start + tl.arange(0, TILE)
            there = position < end
            if WINDOWED:
                there &= position >= low
            line = (block.to(tl.int64) * BLOCK + position % BLOCK) * (2 * KV_HEADS * SIZE)
            # The next blocks are known when this tile is asked for: copies need not wait for them.
            ahead = position + TILE
            block = tl.load(blocks + ahead // BLOCK, mask=ahead < end, other=0)
            rows_at = kv + line[:, None] + head * SIZE + numbers[None, :]
            readable = there[:, None] & inside[None, :]
            keys = tl.load(rows_at, mask=readable, other=0.0)
            values = tl.load(rows_at + KV_HEADS * SIZE, mask=readable, other=0.0)
            scores = tl.dot(q, tl.trans(keys.to(q.dtype)), input_precision="ieee") * scale
            if CAPPED:
                scores = soft_cap * (2.0 / (1.0 + tl.exp(-2.0 * scores / soft_cap)) - 1.0)
            scores *= 1.4426950408889634  # to powers of 2
            sees = there[None, :] & (position[None, :] < high[:, None])
            if WINDOWED:
                sees &= position[None, :] >= high[:, None] - window
            scores = tl.where(sees, scores, -1e30)
            more = tl.maximum(most, tl.max(scores, 1))
            weights = tl.exp2(scores - more[:, None])
            kept = tl.exp2(most - more)
            total = total * kept + tl.sum(weights, 1)
            found = found * kept[:, None]
            found = tl.dot(weights.to(q.dtype), values.to(q.dtype), found, input_precision="ieee")
            most = more

        mean = found * (value_scale / tl.where(total > 0, total, 1.0))[:, None]
        if taken == tiles:
            to = ((first + token).to(tl.int64) * HEADS + head * SHARING + shared) * SIZE
            tl.store(output + to[:, None] + numbers[None, :], mean.to(q.dtype), mask=known)
        else:
            place = _place(share, tile == 0, ROWS) + row
            tl.store(partial + place[:, None] * SIZE + numbers[None, :], mean, mask=known)
            log = tl.where(total > 0, most + tl.log2(total), -1e30)
            tl.store(logs + place, log, mask=wanted)
        at += taken


@triton.jit(do_not_specialize=("num_requests", "shares", "window", "firsts", "counts", "seen"))
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
    LEAST: tl.constexpr,
    WINDOWED: tl.constexpr,
    PARTS: tl.constexpr,
    BY_SHARE: tl.constexpr,
    EARLY: tl.constexpr,
):
    """What several shares found for one row, each by how much it weighs."""
    SHARING: tl.constexpr = HEADS // KV_HEADS
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    through = _through(counts, seen, num_requests, window, REQUESTS, TILE, WINDOWED)
    all_tiles = tl.max(through, 0) * KV_HEADS
    each = tl.maximum(tl.cdiv(all_tiles, shares), LEAST)
    share, row = tl.program_id(0), tl.program_id(1)
    if BY_SHARE:  # the tiles in which a share begins
        at = share * each
        request, before = _request_of(through, at, KV_HEADS)
    else:
        request = share // KV_HEADS
        at = 0
        before = _tiles_before(through, request, REQUESTS) * KV_HEADS
    there = (at < all_tiles) & (request < num_requests)
    count = tl.load(counts + request, mask=there, other=0)
    visible = tl.load(seen + request, mask=there, other=0)
    tiles = _tiles(count, visible, window, TILE, WINDOWED)
    head = (at - before) // tl.maximum(tiles, 1) if BY_SHARE else share % KV_HEADS
    begin = before + head * tiles
    first_share = begin // each
    last_share = (begin + tiles - 1) // each
    token, shared = row // SHARING, row % SHARING
    joins = (token < count) & (first_share < last_share)
    if BY_SHARE:
        joins &= last_share == share  # who ends them joins them
    if joins:
        numbers = tl.arange(0, SIZE_UP)
        most = -1e30
        total = 0.0
        joined = tl.zeros([SIZE_UP], tl.float32)
        for part in range(first_share, last_share + 1, PARTS):
            own = part + tl.arange(0, PARTS)
            exists = own <= last_share
            place = _place(own, own * each <= begin, ROWS) + row
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
            most = more
        first = tl.load(firsts + request)
        to = ((first + token).to(tl.int64) * HEADS + head * SHARING + shared) * SIZE
        joined = (joined / total).to(output.dtype.element_ty)
        tl.store(output + to + numbers, joined, mask=numbers < SIZE)


@triton.jit
def _through(
    counts,
    seen,
    num_requests,
    window,
    REQUESTS: tl.constexpr,
    TILE: tl.constexpr,
    WINDOWED: tl.constexpr,
):
    """Tiles of each request and of all before it, for one head of keys."""
    request = tl.arange(0, REQUESTS)
    count = tl.load(counts + request, mask=request < num_requests, other=0)
    visible = tl.load(seen + request, mask=request < num_requests, other=0)
    return tl.cumsum(_tiles(count, visible, window, TILE, WINDOWED), 0)


@triton.jit
def _tiles(count, visible, window, TILE: tl.constexpr, WINDOWED: tl.constexpr):
    """Of what a request sees; padding sees nothing."""
    low = _low(visible, window, WINDOWED)
    tiles = tl.cdiv(visible + count - 1, TILE) - low // TILE
    return tl.where((count > 0) & (visible > 0), tiles, 0)


@triton.jit
def _low(visible, window, WINDOWED: tl.constexpr):
    """The first position that a request sees."""
    return tl.maximum(visible - window, 0) if WINDOWED else visible * 0


@triton.jit
def _request_of(through, at, KV_HEADS: tl.constexpr):
    """Whose tile it is, and how many tiles are before that request's."""
    passed = through * KV_HEADS <= at
    return tl.sum(passed.to(tl.int32), 0), tl.max(tl.where(passed, through, 0), 0) * KV_HEADS


@triton.jit
def _tiles_before(through, request, REQUESTS: tl.constexpr):
    return tl.max(tl.where(tl.arange(0, REQUESTS) < request, through, 0), 0)


@triton.jit
def _place(share, begins, ROWS: tl.constexpr):
    """Where a share leaves what it has found: it may end one row of tiles and begin another."""
    return (share.to(tl.int64) * 2 + tl.where(begins, 1, 0)) * ROWS
