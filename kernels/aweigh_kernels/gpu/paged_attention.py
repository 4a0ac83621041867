"""See `paged_attention_gpu`.

A program reads for all rows of one request and one head of keys: heads of queries that share it,
times new tokens. Tiles of positions come through shared memory while earlier ones are computed
with; a running maximum (Milakov and Gimelshein 2018) scales what was summed before.
"""

import triton
import triton.language as tl

# Kernels are compiled for constants alone, never for what changes from step to step: neither for
# sizes that happen to be 1 or multiples of 16, nor for where arrays of a step begin.
_OF_REQUESTS = ("firsts", "counts", "seen", "table")
CHANGING = ("query_stride", "table_stride", "parts", "window", *_OF_REQUESTS)


@triton.jit(do_not_specialize=CHANGING)
def attend_part(
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
    parts,
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
    SPLIT: tl.constexpr,
    CAPPED: tl.constexpr,
    WINDOWED: tl.constexpr,
):
    """One request, one head of keys, one part of what it sees."""
    SHARING: tl.constexpr = HEADS // KV_HEADS
    request, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    count, first = tl.load(counts + request), tl.load(firsts + request)
    visible = tl.load(seen + request)
    row = tl.arange(0, ROWS)
    token, shared = row // SHARING, row % SHARING
    wanted = token < count
    numbers = tl.arange(0, SIZE_UP)
    inside = numbers < SIZE
    own = (first + token).to(tl.int64) * query_stride + (head * SHARING + shared) * SIZE
    q = tl.load(
        query + own[:, None] + numbers[None, :], mask=wanted[:, None] & inside[None, :], other=0.0
    )
    end = visible + count - 1
    low = 0  # what is before it may be another request's
    if WINDOWED:
        low = tl.maximum(visible - window, 0)
    start = low // TILE * TILE
    tiles = tl.cdiv(end - start, TILE)
    each = tl.cdiv(tiles, parts) * TILE
    begin = start + part * each
    stop = tl.minimum(begin + each, end)

    high = visible + token  # what a row sees ends there
    most = tl.full([ROWS], -1e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    found = tl.zeros([ROWS, SIZE_UP], tl.float32)
    blocks = table + request * table_stride
    for at in range(begin, stop, TILE):
        position = at + tl.arange(0, TILE)
        there = position < stop
        if WINDOWED:
            there &= position >= low
        block = tl.load(blocks + position // BLOCK, mask=there, other=0).to(tl.int64)
        line = (block * BLOCK + position % BLOCK) * (2 * KV_HEADS * SIZE)
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
        weights = tl.where(sees, tl.exp2(scores - more[:, None]), 0.0)
        kept = tl.exp2(most - more)
        total = total * kept + tl.sum(weights, 1)
        found = found * kept[:, None]
        found = tl.dot(weights.to(q.dtype), values.to(q.dtype), found, input_precision="ieee")
        most = more

    if SPLIT:
        place = ((request.to(tl.int64) * KV_HEADS + head) * parts + part) * ROWS + row
        mean = found * (value_scale / tl.where(total > 0, total, 1.0))[:, None]
        tl.store(
            partial + place[:, None] * SIZE + numbers[None, :],
            mean,
            mask=wanted[:, None] & inside[None, :],
        )
        tl.store(logs + place, tl.where(total > 0, most + tl.log2(total), -1e30), mask=wanted)
    else:
        to = ((first + token).to(tl.int64) * HEADS + head * SHARING + shared) * SIZE
        tl.store(
            output + to[:, None] + numbers[None, :],
            (found * (value_scale / total)[:, None]).to(q.dtype),
            mask=wanted[:, None] & inside[None, :],
        )


@triton.jit(do_not_specialize=("parts", "firsts", "counts"))
def join(
    output,
    partial,
    logs,
    firsts,
    counts,
    parts,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_UP: tl.constexpr,
    ROWS: tl.constexpr,
    MOST_PARTS: tl.constexpr,
):
    """The parts of one row, each by how much it weighs."""
    SHARING: tl.constexpr = HEADS // KV_HEADS
    request, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    token, shared = row // SHARING, row % SHARING
    if token < tl.load(counts + request):
        part, numbers = tl.arange(0, MOST_PARTS), tl.arange(0, SIZE_UP)
        place = ((request.to(tl.int64) * KV_HEADS + head) * parts + part) * ROWS + row
        there = part < parts
        own = tl.load(logs + place, mask=there, other=-1e30)
        weights = tl.exp2(own - tl.max(own, 0))
        weights = weights / tl.sum(weights, 0)
        means = tl.load(
            partial + place[:, None] * SIZE + numbers[None, :],
            mask=there[:, None] & (numbers < SIZE)[None, :],
            other=0.0,
        )
        joined = tl.sum(means * weights[:, None], 0)
        first = tl.load(firsts + request)
        to = ((first + token).to(tl.int64) * HEADS + head * SHARING + shared) * SIZE
        tl.store(output + to + numbers, joined.to(output.dtype.element_ty), mask=numbers < SIZE)
