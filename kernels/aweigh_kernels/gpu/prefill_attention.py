"""See `prefill_attention_gpu`.

A program computes one tile of rows: new tokens of one request, times the heads of queries that
share a head of keys. Tiles of positions come through shared memory while earlier ones are computed
with; a running maximum (Milakov and Gimelshein 2018) scales what was summed before. Only positions
that some row of the tile does not see are masked.
"""

import triton
import triton.language as tl

# Kernels are compiled for constants alone, never for what changes from step to step.
CHANGING = ("tiles", "table", "table_stride", "window")


@triton.jit(do_not_specialize=CHANGING)
def attend_tile(
    query,
    kv,
    output,
    tiles,
    table,
    query_stride,
    table_stride,
    scale,
    value_scale,
    soft_cap,
    window,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_UP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    CAPPED: tl.constexpr,
    WINDOWED: tl.constexpr,
):
    """One tile of rows of one head of keys."""
    SHARING: tl.constexpr = HEADS // KV_HEADS
    head = tl.program_id(0) % KV_HEADS
    tile = tiles + tl.program_id(0) // KV_HEADS * 4
    request, first, before, count = (
        tl.load(tile),
        tl.load(tile + 1),
        tl.load(tile + 2),
        tl.load(tile + 3),
    )
    row = tl.arange(0, ROWS)
    token, shared = row // SHARING, row % SHARING
    wanted = token < count
    numbers = tl.arange(0, SIZE_UP)
    inside = numbers < SIZE
    own = (first + token).to(tl.int64) * query_stride + (head * SHARING + shared) * SIZE
    q = tl.load(
        query + own[:, None] + numbers[None, :], mask=wanted[:, None] & inside[None, :], other=0.0
    )
    high = before + 1 + token  # what a row sees ends there
    end = before + count
    start = 0
    if WINDOWED:
        start = tl.maximum(before + 1 - window, 0) // TILE * TILE
    # Every row sees all positions up to here, but for a window.
    full = tl.maximum((before + 1) // TILE * TILE, start)

    most = tl.full([ROWS], -1e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    found = tl.zeros([ROWS, SIZE_UP], tl.float32)
    blocks = table + request * table_stride
    lines = kv + head * SIZE + numbers[None, :]
    for at in range(start, full, TILE):
        most, total, found = _meet(
            q, most, total, found, at, high, end, lines, blocks, inside, scale, soft_cap, window,
            KV_HEADS, SIZE, SIZE_UP, BLOCK, TILE, CAPPED, WINDOWED, False,
        )  # fmt: skip
    for at in range(full, end, TILE):
        most, total, found = _meet(
            q, most, total, found, at, high, end, lines, blocks, inside, scale, soft_cap, window,
            KV_HEADS, SIZE, SIZE_UP, BLOCK, TILE, CAPPED, WINDOWED, True,
        )  # fmt: skip
    to = ((first + token).to(tl.int64) * HEADS + head * SHARING + shared) * SIZE
    tl.store(
        output + to[:, None] + numbers[None, :],
        (found * (value_scale / total)[:, None]).to(q.dtype),
        mask=wanted[:, None] & inside[None, :],
    )


@triton.jit
def _meet(
    q,
    most,
    total,
    found,
    at,
    high,
    end,
    lines,
    blocks,
    inside,
    scale,
    soft_cap,
    window,
    KV_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_UP: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    CAPPED: tl.constexpr,
    WINDOWED: tl.constexpr,
    LAST: tl.constexpr,
):
    """The rows, and the tile of positions from `at` on; LAST: not all rows see all of it."""
    position = at + tl.arange(0, TILE)
    there = position < end if LAST else tl.full([TILE], True, tl.int1)
    if WINDOWED:
        # What is before the window may be another request's.
        there &= position >= tl.min(high, 0) - window
    block = tl.load(blocks + position // BLOCK, mask=there, other=0).to(tl.int64)
    line = (block * BLOCK + position % BLOCK) * (2 * KV_HEADS * SIZE)
    rows_at = lines + line[:, None]
    if LAST or WINDOWED or SIZE != SIZE_UP:
        readable = there[:, None] & inside[None, :]
        keys = tl.load(rows_at, mask=readable, other=0.0)
        values = tl.load(rows_at + KV_HEADS * SIZE, mask=readable, other=0.0)
    else:
        keys = tl.load(rows_at)
        values = tl.load(rows_at + KV_HEADS * SIZE)
    scores = tl.dot(q, tl.trans(keys.to(q.dtype)))
    if CAPPED:
        capped = 1.0 - 2.0 / (1.0 + tl.exp2(scores * (2.0 * 1.4426950408889634 * scale / soft_cap)))
        scores = capped * soft_cap
        scale = 1.0
    if LAST or WINDOWED:
        sees = position[None, :] < high[:, None]
        if WINDOWED:
            sees &= position[None, :] >= high[:, None] - window
        scores = tl.where(sees, scores, float("-inf"))
    power = scale * 1.4426950408889634  # of 2
    more = tl.maximum(most, tl.max(scores, 1))
    weights = tl.exp2(scores * power - (more * power)[:, None])
    kept = tl.exp2((most - more) * power)
    total = total * kept + tl.sum(weights, 1)
    found = tl.dot(weights.to(q.dtype), values.to(q.dtype), found * kept[:, None])
    return more, total, found
