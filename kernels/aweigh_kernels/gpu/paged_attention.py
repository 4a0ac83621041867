"""See `paged_attention_gpu`.

All that requests see is one line of tiles: request after request, position after position. Each
program takes an equal share of it for one head of keys, so that lengths on the device alone say who
reads what, and all heads read the same lines of memory at the same time. Tiles come through shared
memory while earlier ones are computed with; a running maximum (Milakov and Gimelshein 2018) scales
what was summed before.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

# Kernels are compiled for constants alone, never for what changes from step to step: neither for
# sizes that happen to be 1 or multiples of 16, nor for where arrays of a step begin.
_OF_REQUESTS = ("firsts", "counts", "seen", "common", "ends", "table")
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
    common,
    ends,
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
    CAPPED: tl.constexpr,
    WINDOWED: tl.constexpr,
    COMMON: tl.constexpr,
    PAIRED: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One share: the end of one row of tiles, some whole ones, the beginning of another.

    COMMON: what requests have in common is left to `attend_common`, which was launched before. The
    join finds in `ends` which tiles are whose: it has a program for each row, far too many to add
    them up again.
    """
    SHARING: tl.constexpr = HEADS // KV_HEADS
    if EARLY:
        gdc_launch_dependents()
    through = through_of(
        counts, seen, common, num_requests, window, REQUESTS, TILE, WINDOWED, COMMON
    )
    all_tiles = tl.max(through, 0)
    each = tl.maximum(tl.cdiv(all_tiles, shares), 1)
    head, share = tl.program_id(0), tl.program_id(1)
    at = share * each
    stop = tl.minimum(at + each, all_tiles)
    row = tl.arange(0, ROWS)
    token, shared = row // SHARING, row % SHARING
    number = tl.arange(0, SIZE_UP)
    if COMMON and head + share == 0:
        request = tl.arange(0, REQUESTS)
        tl.store(ends + request, through, mask=request < num_requests)
    # `attend_common` has waited for what was before it: nothing that it writes is read here.
    if EARLY and not COMMON:
        gdc_wait()
    while at < stop:
        request, before = request_of(through, at)
        count, first = tl.load(counts + request), tl.load(firsts + request)
        visible = tl.load(seen + request)
        elsewhere = common_of(common, request, True, COMMON)
        tiles = tiles_of(count, visible, elsewhere, window, TILE, WINDOWED)
        tile = at - before
        taken = tl.minimum(tiles - tile, stop - at)
        low = low_of(visible, window, WINDOWED)
        begin = begin_of(visible, elsewhere, window, TILE, WINDOWED) + tile * TILE
        end = tl.minimum(begin + taken * TILE, visible + count - 1)

        wanted = token < count
        own = query + (first + token).to(tl.int64) * query_stride + (head * SHARING + shared) * SIZE
        blocks = table + request.to(tl.int64) * table_stride
        high = visible + token  # what a row sees ends there
        of_head = kv + head * (SIZE // 2 if PAIRED else SIZE)
        see: tl.constexpr = see_pairs if PAIRED else see_tiles
        found, total, most = see(
            own, wanted, of_head, blocks, (begin, end, low, high), scale, soft_cap, window,
            KV_HEADS, SIZE, SIZE_UP, ROWS, BLOCK, TILE, CAPPED, WINDOWED,
        )  # fmt: skip
        mean = found * (value_scale / tl.where(total > 0, total, 1.0))[:, None]
        written = wanted[:, None] & (number < SIZE)[None, :]
        of_output = (first + token).to(tl.int64) * HEADS + head * SHARING + shared
        if (taken == tiles) & (elsewhere == 0):
            rounded = mean.to(output.dtype.element_ty)
            tl.store(output + of_output[:, None] * SIZE + number[None, :], rounded, mask=written)
        else:
            place = place_of(head * shares + share, tile == 0, ROWS) + row
            if COMMON:
                whole = whole_of(KV_HEADS * shares, ROWS) + of_output
                place = tl.where(taken == tiles, whole, place)
            tl.store(partial + place[:, None] * SIZE + number[None, :], mean, mask=written)
            log = tl.where(total > 0, most + tl.log2(total), -1e30)
            tl.store(logs + place, log, mask=wanted)
        at += taken
    if EARLY and COMMON:
        gdc_wait()  # so that both have ended when this one has


@triton.jit
def see_tiles(
    own,
    wanted,
    kv,
    blocks,
    span,
    scale,
    soft_cap,
    window,
    KV_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_UP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    CAPPED: tl.constexpr,
    WINDOWED: tl.constexpr,
):
    """Some tiles of one request and head: sums of weighted values, of weights, their scale."""
    begin, end, low, high = span
    number = tl.arange(0, SIZE_UP)
    inside = (number < SIZE)[None, :]
    q = tl.load(own[:, None] + number[None, :], mask=wanted[:, None] & inside, other=0.0)
    most = tl.full([ROWS], -1e29, tl.float32)  # far above what hidden scores become
    sums = tl.zeros([ROWS, TILE], tl.float32)
    found = tl.zeros([ROWS, SIZE_UP], tl.float32)
    block = _blocks_of(blocks, begin, low, end, BLOCK, TILE)
    for start in range(begin, end, TILE):
        line, there = _lines(block, start, low, end, KV_HEADS * SIZE, BLOCK, TILE, WINDOWED)
        # The next blocks are known when this tile is asked for: copies need not wait for them.
        block = _blocks_of(blocks, start + TILE, low, end, BLOCK, TILE)
        at = kv + line[:, None] + number[None, :]
        keys = tl.load(at, mask=there[:, None] & inside, other=0.0)
        values = tl.load(at + KV_HEADS * SIZE, mask=there[:, None] & inside, other=0.0)
        scores = tl.dot(q, tl.trans(keys.to(q.dtype)), input_precision="ieee") * scale
        weights, kept, most = _weigh(
            scores, start, high, most, soft_cap, window, TILE, CAPPED, WINDOWED
        )
        sums = sums * kept[:, None] + weights
        found = tl.dot(
            weights.to(q.dtype),
            values.to(q.dtype),
            found * kept[:, None],
            input_precision="ieee",
        )
    return found, tl.sum(sums, 1), most


@triton.jit
def see_pairs(
    own,
    wanted,
    kv,
    blocks,
    span,
    scale,
    soft_cap,
    window,
    KV_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_UP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    CAPPED: tl.constexpr,
    WINDOWED: tl.constexpr,
):
    """The same of e4m3 numbers, two and two; what is even and what is odd is multiplied apart."""
    begin, end, low, high = span
    pair = tl.arange(0, SIZE_UP // 2)
    inside = (pair < SIZE // 2)[None, :]
    first = own[:, None] + 2 * pair[None, :]
    q_even = tl.load(first, mask=wanted[:, None] & inside, other=0.0)
    q_odd = tl.load(first + 1, mask=wanted[:, None] & inside, other=0.0)
    q_even, q_odd, scales = _scaled(q_even, q_odd)
    scales *= scale
    most = tl.full([ROWS], -1e29, tl.float32)
    sums = tl.zeros([ROWS, TILE], tl.float32)
    even = tl.zeros([ROWS, SIZE_UP // 2], tl.float32)
    odd = tl.zeros([ROWS, SIZE_UP // 2], tl.float32)
    block = _blocks_of(blocks, begin, low, end, BLOCK, TILE)
    for start in range(begin, end, TILE):
        line, there = _lines(block, start, low, end, KV_HEADS * SIZE // 2, BLOCK, TILE, WINDOWED)
        block = _blocks_of(blocks, start + TILE, low, end, BLOCK, TILE)
        at = kv + line[:, None] + pair[None, :]
        keys = tl.load(at, mask=there[:, None] & inside, other=0)
        values = tl.load(at + KV_HEADS * SIZE // 2, mask=there[:, None] & inside, other=0)
        keys_even, keys_odd = _widened(tl.trans(keys))
        scores = tl.dot(q_odd, keys_odd, tl.dot(q_even, keys_even)) * scales[:, None]
        weights, kept, most = _weigh(
            scores, start, high, most, soft_cap, window, TILE, CAPPED, WINDOWED
        )
        sums = sums * kept[:, None] + weights
        values_even, values_odd = _widened(values)
        narrow = weights.to(tl.float16)
        even = tl.dot(narrow, values_even, even * kept[:, None])
        odd = tl.dot(narrow, values_odd, odd * kept[:, None])
    return tl.interleave(even, odd), tl.sum(sums, 1), most


@triton.jit
def _blocks_of(blocks, start, low, end, BLOCK: tl.constexpr, TILE: tl.constexpr):
    """Where the positions of a tile lie; block 0 for those that nobody sees."""
    offset = tl.arange(0, TILE)
    there = (start + offset >= low) & (start + offset < end)
    if TILE % BLOCK == 0:
        return tl.load(blocks + start // BLOCK + offset // BLOCK, mask=there, other=0)
    return tl.load(blocks + (start + offset) // BLOCK, mask=there, other=0)


@triton.jit
def _lines(
    block,
    start,
    low,
    end,
    NUMBERS: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    WINDOWED: tl.constexpr,
):
    """Where the keys of each position of a tile begin, and whether it is seen.

    Positions of the whole pool are counted in 32 bits, numbers in 64.
    """
    offset = tl.arange(0, TILE)
    there = start + offset < end
    if WINDOWED:
        there &= start + offset >= low
    within = offset % BLOCK if TILE % BLOCK == 0 else (start + offset) % BLOCK
    return (block * BLOCK + within).to(tl.int64) * (2 * NUMBERS), there


@triton.jit
def _weigh(
    scores,
    start,
    high,
    most,
    soft_cap,
    window,
    TILE: tl.constexpr,
    CAPPED: tl.constexpr,
    WINDOWED: tl.constexpr,
):
    """Powers of 2 of what each row sees; how much what was found before still weighs."""
    if CAPPED:
        scores = 2.0 / (1.0 + tl.exp(-2.0 * scores / soft_cap)) - 1.0
        scores *= soft_cap * 1.4426950408889634
    position = start + tl.arange(0, TILE)
    sees = position[None, :] < high[:, None]
    if WINDOWED:
        sees &= position[None, :] >= high[:, None] - window
    scores = tl.where(sees, scores, -1e30)
    more = tl.maximum(most, tl.max(scores, 1))
    return tl.exp2(scores - more[:, None]), tl.exp2(most - more), more


@triton.jit
def _scaled(even, odd):
    """As fp16, which has room for them by what each row's largest is; and that."""
    even, odd = even.to(tl.float32), odd.to(tl.float32)
    largest = tl.max(tl.maximum(tl.abs(even), tl.abs(odd)), 1)
    largest = tl.where(largest > 0, largest, 1.0)
    even, odd = even / largest[:, None], odd / largest[:, None]
    return even.to(tl.float16), odd.to(tl.float16), largest


@triton.jit
def _widened(pairs):
    """fp16 of the first and of the second of two e4m3 numbers that lie in 16 bits.

    Tensor cores want neighbours of another row side by side, and only 16 bits can be loaded so.
    """
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 sorted;
        .reg .b16 first, second;
        prmt.b32 sorted, $2, 0, 0x3120;
        mov.b32 {first, second}, sorted;
        cvt.rn.f16x2.e4m3x2 $0, first;
        cvt.rn.f16x2.e4m3x2 $1, second;
        }""",
        "=r,=r,r",
        [pairs],
        dtype=(tl.float16, tl.float16),
        is_pure=True,
        pack=2,
    )


@triton.jit
def through_of(
    counts,
    seen,
    common,
    num_requests,
    window,
    REQUESTS: tl.constexpr,
    TILE: tl.constexpr,
    WINDOWED: tl.constexpr,
    COMMON: tl.constexpr,
):
    """Tiles of each request and of all before it."""
    request = tl.arange(0, REQUESTS)
    there = request < num_requests
    count = tl.load(counts + request, mask=there, other=0)
    visible = tl.load(seen + request, mask=there, other=0)
    elsewhere = common_of(common, request, there, COMMON)
    return tl.cumsum(tiles_of(count, visible, elsewhere, window, TILE, WINDOWED), 0)


@triton.jit
def common_of(common, request, there, COMMON: tl.constexpr):
    """How many positions of a request are read together with those of others."""
    return tl.load(common + request, mask=there, other=0) if COMMON else request * 0


@triton.jit
def tiles_of(count, visible, elsewhere, window, TILE: tl.constexpr, WINDOWED: tl.constexpr):
    """Of what a request sees, and is not read elsewhere; padding sees nothing."""
    begin = begin_of(visible, elsewhere, window, TILE, WINDOWED)
    tiles = tl.cdiv(visible + count - 1 - begin, TILE)
    return tl.where((count > 0) & (visible > 0), tiles, 0)


@triton.jit
def begin_of(visible, elsewhere, window, TILE: tl.constexpr, WINDOWED: tl.constexpr):
    """Where the first of these tiles begins: windows know of nothing that is read elsewhere."""
    return low_of(visible, window, WINDOWED) // TILE * TILE if WINDOWED else elsewhere


@triton.jit
def low_of(visible, window, WINDOWED: tl.constexpr):
    """The first position that a request sees."""
    return tl.maximum(visible - window, 0) if WINDOWED else visible * 0


@triton.jit
def request_of(through, at):
    """Whose tile it is, and how many tiles are before that request's."""
    passed = through <= at
    return tl.sum(passed.to(tl.int32), 0), tl.max(tl.where(passed, through, 0), 0)


@triton.jit
def place_of(share, begins, ROWS: tl.constexpr):
    """Where a share leaves what it has found: it may end one row of tiles and begin another."""
    return (share.to(tl.int64) * 2 + tl.where(begins, 1, 0)) * ROWS


@triton.jit
def whole_of(shares, ROWS: tl.constexpr):
    """Where, behind all shares, lies what was found of whole requests: in the output's order."""
    return shares.to(tl.int64) * (2 * ROWS)
