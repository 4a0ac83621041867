"""See `prefill_attention_gpu`: the same for Hopper (Gluon), in warps that do one thing each.

One warp has pages of keys and values copied into rings of shared memory by the copy engine. Two
groups of four warps compute 64 rows each, and take turns: while one exponentiates, tensor cores
multiply for the other (FlashAttention-3, Shah et al. 2024). Within a group the scores of the next
tile of positions are multiplied together with the values of the one before. A program stays on its
multiprocessor and computes item after item, an item being a tile of rows and a head of keys.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    async_copy,
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from aweigh_kernels.gpu.prefill_attention import CHANGING

ROWS = 128  # of an item
POSITIONS = 128  # of a tile of keys
COLUMNS = 64  # that one copy brings of each row: 128 bytes, the width of a swizzle
STAGES = 2  # of each ring
SHARED_BYTES = 227 << 10  # of a program at most: it has a multiprocessor alone
SPILLED_BYTES = {64: 0, 128: 48}  # of a thread at most, by size of heads: none over tiles of keys
SWIZZLED = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)

_ROWS = gl.constexpr(ROWS // 2)  # of a group of warps
_POSITIONS = gl.constexpr(POSITIONS)
_COLUMNS = gl.constexpr(COLUMNS)
_STAGES = gl.constexpr(STAGES)
_LOG2_E = gl.constexpr(1.4426950408889634)


@gluon.constexpr_function
def _scores_layout():
    return gl.NVMMADistributedLayout([3, 0], [4, 1], [16, POSITIONS, 16])


@gluon.constexpr_function
def _found_layout(size):
    return gl.NVMMADistributedLayout([3, 0], [4, 1], [16, size, 16])


@gluon.jit(do_not_specialize=[*CHANGING, "num_items"])
def attend_items(
    pages,  # descriptor of [B·P, 2K·D]
    query,
    output,
    tiles,
    table,
    num_items,
    query_stride,
    table_stride,
    scale,
    value_scale,
    soft_cap,
    window,
    HEADS: gl.constexpr,
    KV_HEADS: gl.constexpr,
    SIZE: gl.constexpr,
    BLOCK: gl.constexpr,
    CAPPED: gl.constexpr,
    WINDOWED: gl.constexpr,
):
    """All items of this program."""
    dtype: gl.constexpr = pages.dtype
    layout: gl.constexpr = pages.layout
    queries = gl.allocate_shared_memory(dtype, [4, _ROWS, SIZE], layout)
    keys = gl.allocate_shared_memory(dtype, [_STAGES, _POSITIONS, SIZE], layout)
    values = gl.allocate_shared_memory(dtype, [_STAGES, _POSITIONS, SIZE], layout)
    full = gl.allocate_shared_memory(gl.int64, [2 * _STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [2 * _STAGES, 1], mbarrier.MBarrierLayout())
    turns = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for each in gl.static_range(2 * _STAGES):
        mbarrier.init(full.index(each), count=1)
        mbarrier.init(empty.index(each), count=2)
    for each in gl.static_range(2):
        mbarrier.init(turns.index(each), count=1)
    work = (tiles, num_items, window)
    rings = (keys, values, full, empty)
    numbers = (query_stride, scale, value_scale, soft_cap)
    gl.warp_specialize(
        [
            (
                _compute,
                (query, output, queries, rings, turns, work, numbers,
                 0, HEADS, KV_HEADS, CAPPED, WINDOWED),
            ),
            (
                _compute,
                (query, output, queries, rings, turns, work, numbers,
                 1, HEADS, KV_HEADS, CAPPED, WINDOWED),
            ),
            (_copy, (pages, table, table_stride, rings, work, KV_HEADS, BLOCK, WINDOWED)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


@gluon.jit
def _item(turn):
    """Forward through one round of items, backward through the next: so that programs share
    the heavy and the light ones, which come first and last."""
    program, count = gl.program_id(0), gl.num_programs(0)
    return turn * count + gl.where(turn % 2 == 0, program, count - 1 - program)


@gluon.jit
def _first_tile(before, window, WINDOWED: gl.constexpr):
    """Of keys that some row sees."""
    first = 0
    if WINDOWED:
        first = gl.maximum(before + 1 - window, 0) // _POSITIONS
    return first


@gluon.jit
def _copy(
    pages,
    table,
    table_stride,
    rings,
    work,
    KV_HEADS: gl.constexpr,
    BLOCK: gl.constexpr,
    WINDOWED: gl.constexpr,
):
    """Fill the rings, the last tile of each item first."""
    keys, values, full, empty = rings
    tiles, num_items, window = work
    SIZE: gl.constexpr = keys.shape[2]
    BOX: gl.constexpr = pages.block_type.shape[0]
    BOXES: gl.constexpr = _POSITIONS // BOX
    HALVES: gl.constexpr = SIZE // _COLUMNS
    layout: gl.constexpr = pages.layout
    boxes: gl.constexpr = [_STAGES * HALVES * BOXES, BOX, _COLUMNS]
    key_boxes = keys._reinterpret(pages.dtype, boxes, layout)
    value_boxes = values._reinterpret(pages.dtype, boxes, layout)
    step = 0
    turn = 0
    item = _item(0)
    while item < num_items:
        head = item % KV_HEADS
        tile = tiles + item // KV_HEADS * 4
        request, before, count = gl.load(tile), gl.load(tile + 2), gl.load(tile + 3)
        blocks = table + request * table_stride
        first = _first_tile(before, window, WINDOWED)
        last = (before + count - 1) // _POSITIONS
        last_block = (before + count - 1) // BLOCK
        first_block = 0
        if WINDOWED:
            first_block = gl.maximum(before + 1 - window, 0) // BLOCK
        for back in range(last - first + 1):
            at = (last - back) * _POSITIONS
            stage = step % _STAGES
            phase = (step // _STAGES) & 1
            rows = ()
            for box in gl.static_range(BOXES):
                position = at + box * BOX
                # Others' blocks are not read: what they hold may be no number.
                block = gl.minimum(gl.maximum(position // BLOCK, first_block), last_block)
                row = gl.load(blocks + block) * BLOCK + position % BLOCK
                rows = rows + (row,)  # type: ignore[assignment]  # noqa: RUF005 - no stars there
            for kind in gl.static_range(2):
                slot = kind * _STAGES + stage
                target = key_boxes if kind == 0 else value_boxes
                mbarrier.wait(empty.index(slot), phase ^ 1)
                mbarrier.expect(full.index(slot), _POSITIONS * SIZE * 2)
                for box in gl.static_range(BOXES):
                    for half in gl.static_range(HALVES):
                        column = (kind * KV_HEADS + head) * SIZE + half * _COLUMNS
                        place = (stage * HALVES + half) * BOXES + box
                        tma.async_copy_global_to_shared(
                            pages, [rows[box], column], full.index(slot), target.index(place)
                        )
            step += 1
        turn += 1
        item = _item(turn)


@gluon.jit
def _compute(
    query,
    output,
    queries,
    rings,
    turns,
    work,
    numbers,
    WHICH: gl.constexpr,
    HEADS: gl.constexpr,
    KV_HEADS: gl.constexpr,
    CAPPED: gl.constexpr,
    WINDOWED: gl.constexpr,
):
    """Half of the rows of each item."""
    tiles, num_items, window = work
    query_stride, scale, value_scale, soft_cap = numbers
    SIZE: gl.constexpr = queries.shape[2]
    SHARING: gl.constexpr = HEADS // KV_HEADS
    layout: gl.constexpr = _scores_layout()
    token = (gl.arange(0, _ROWS, gl.SliceLayout(1, layout)) + WHICH * _ROWS) // SHARING
    step = 0  # of all tiles of keys, whatever their item
    turn = 0
    item = _item(0)
    _ask_for_queries(
        query, queries.index(2 * WHICH), tiles, item, num_items, query_stride,
        WHICH, HEADS, KV_HEADS,
    )  # fmt: skip
    while item < num_items:
        tile = tiles + item // KV_HEADS * 4
        row, before, count = gl.load(tile + 1), gl.load(tile + 2), gl.load(tile + 3)
        high = before + 1 + token  # what a row sees ends there
        first = _first_tile(before, window, WINDOWED)
        last = (before + count - 1) // _POSITIONS
        async_copy.wait_group(0)
        fence_async_shared()
        gl.thread_barrier()
        own = queries.index(2 * WHICH + turn % 2)
        turn += 1
        following = _item(turn)
        _ask_for_queries(
            query, queries.index(2 * WHICH + turn % 2), tiles, following, num_items, query_stride,
            WHICH, HEADS, KV_HEADS,
        )  # fmt: skip
        weights, most, total = _begin(
            step, last * _POSITIONS, own, rings, turns, high, window, scale, soft_cap,
            WHICH, CAPPED, WINDOWED,
        )  # fmt: skip
        found = gl.zeros([_ROWS, SIZE], gl.float32, _found_layout(SIZE))
        step += 1
        # Of the tiles before this one all rows see everything, but for a window.
        all_seen = first if WINDOWED else gl.minimum((before + 1) // _POSITIONS, last)
        for back in range(1, last - all_seen + 1):
            weights, most, total, found = _meet(
                weights, most, total, found, step, (last - back) * _POSITIONS,
                own, rings, turns, high, window, scale, soft_cap, WHICH, True, CAPPED, WINDOWED,
            )  # fmt: skip
            step += 1
        for back in range(last - all_seen + 1, last - first + 1):
            weights, most, total, found = _meet(
                weights, most, total, found, step, (last - back) * _POSITIONS,
                own, rings, turns, high, window, scale, soft_cap, WHICH, False, CAPPED, WINDOWED,
            )  # fmt: skip
            step += 1
        found = _end(weights, found, step, rings)
        _write(
            output, found, total, value_scale, row, count, item % KV_HEADS, WHICH, HEADS, SHARING
        )
        item = following


@gluon.jit
def _begin(
    step, at, queries, rings, turns, high, window, scale, soft_cap,
    WHICH: gl.constexpr, CAPPED: gl.constexpr, WINDOWED: gl.constexpr,
):  # fmt: skip
    """Weigh an item's first tile of keys, which is the last of its positions."""
    keys, _values, full, empty = rings
    layout: gl.constexpr = _scores_layout()
    stage, phase = step % _STAGES, (step // _STAGES) & 1
    mbarrier.wait(full.index(stage), phase)
    mbarrier.wait(turns.index(WHICH), (step & 1) ^ (1 - WHICH))
    scores = gl.zeros([_ROWS, _POSITIONS], gl.float32, layout)
    scores = warpgroup_mma(
        queries, keys.index(stage).permute((1, 0)), scores, use_acc=False, is_async=True
    )
    mbarrier.arrive(turns.index(1 - WHICH), count=1)
    scores = warpgroup_mma_wait(0, [scores])
    mbarrier.arrive(empty.index(stage), count=1)
    most = gl.full([_ROWS], -1e30, gl.float32, gl.SliceLayout(1, layout))
    total = gl.zeros([_ROWS], gl.float32, gl.SliceLayout(1, layout))
    weights, most, total, _ = _weigh(
        scores, most, total, at, high, window, scale, soft_cap, True, CAPPED, WINDOWED
    )
    operand: gl.constexpr = gl.DotOperandLayout(0, _found_layout(keys.shape[2]), 2)
    return gl.convert_layout(weights.to(keys.dtype), operand), most, total


@gluon.jit
def _meet(
    weights, most, total, found, step, at,
    queries, rings, turns, high, window, scale, soft_cap,
    WHICH: gl.constexpr, MASKED: gl.constexpr, CAPPED: gl.constexpr, WINDOWED: gl.constexpr,
):  # fmt: skip
    """Add the values of the tile before; weigh the keys of this one, the `step`th."""
    keys, values, full, empty = rings
    found_layout: gl.constexpr = _found_layout(keys.shape[2])
    stage, phase = step % _STAGES, (step // _STAGES) & 1
    earlier, its_phase = (step - 1) % _STAGES, ((step - 1) // _STAGES) & 1
    mbarrier.wait(full.index(stage), phase)
    mbarrier.wait(turns.index(WHICH), (step & 1) ^ (1 - WHICH))
    scores = gl.zeros([_ROWS, _POSITIONS], gl.float32, _scores_layout())
    scores = warpgroup_mma(
        queries, keys.index(stage).permute((1, 0)), scores, use_acc=False, is_async=True
    )
    mbarrier.wait(full.index(_STAGES + earlier), its_phase)
    adding = warpgroup_mma(weights, values.index(earlier), found, is_async=True)
    mbarrier.arrive(turns.index(1 - WHICH), count=1)
    scores = warpgroup_mma_wait(1, [scores])
    mbarrier.arrive(empty.index(stage), count=1)
    fresh, most, total, kept = _weigh(
        scores, most, total, at, high, window, scale, soft_cap, MASKED, CAPPED, WINDOWED
    )
    if not MASKED:  # where registers are enough
        total = _after(total)
    found, _ = warpgroup_mma_wait(0, [adding, weights])
    mbarrier.arrive(empty.index(_STAGES + earlier), count=1)
    found = found * gl.convert_layout(kept, gl.SliceLayout(1, found_layout))[:, None]
    operand: gl.constexpr = gl.DotOperandLayout(0, found_layout, 2)
    return gl.convert_layout(fresh.to(keys.dtype), operand), most, total, found


@gluon.jit
def _end(weights, found, step, rings):
    """Add the values of an item's last tile."""
    _keys, values, full, empty = rings
    stage, phase = (step - 1) % _STAGES, ((step - 1) // _STAGES) & 1
    mbarrier.wait(full.index(_STAGES + stage), phase)
    found = warpgroup_mma(weights, values.index(stage), found, is_async=True)
    found = warpgroup_mma_wait(0, [found])
    mbarrier.arrive(empty.index(_STAGES + stage), count=1)
    return found


@gluon.jit
def _ask_for_queries(
    query, target, tiles, item, num_items, query_stride, WHICH: gl.constexpr, HEADS: gl.constexpr,
    KV_HEADS: gl.constexpr,
):  # fmt: skip
    """Begin to copy the rows of an item, of which this group of warps computes half."""
    SIZE: gl.constexpr = target.shape[1]
    SHARING: gl.constexpr = HEADS // KV_HEADS
    LANES: gl.constexpr = SIZE // 8
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [32 // LANES, LANES], [4, 1], [1, 0])
    row = gl.arange(0, _ROWS, gl.SliceLayout(1, layout)) + WHICH * _ROWS
    number = gl.arange(0, SIZE, gl.SliceLayout(0, layout))
    if item < num_items:
        tile = tiles + item // KV_HEADS * 4
        first, count = gl.load(tile + 1), gl.load(tile + 3)
        token = row // SHARING
        own = query + first.to(gl.int64) * query_stride + item % KV_HEADS * SHARING * SIZE
        line = token * query_stride + row % SHARING * SIZE
        async_copy.async_copy_global_to_shared(
            target, own + line[:, None] + number[None, :], mask=(token < count)[:, None]
        )
    async_copy.commit_group()


@gluon.jit
def _weigh(
    scores, most, total, at, high, window, scale, soft_cap,
    MASKED: gl.constexpr, CAPPED: gl.constexpr, WINDOWED: gl.constexpr,
):  # fmt: skip
    """Scores of a tile become weights: these, and what sums so far are multiplied by."""
    if CAPPED:
        twice = scores * (2.0 * _LOG2_E * scale / soft_cap)
        scores = soft_cap * (1.0 - 2.0 / (1.0 + gl.exp2(twice)))
        scale = 1.0
    if MASKED:
        layout: gl.constexpr = scores.type.layout
        position = gl.arange(0, _POSITIONS, gl.SliceLayout(0, layout))[None, :]
        end = (high - at)[:, None]
        sees = position < end
        if WINDOWED:
            sees = sees & (position >= end - window)
        scores = gl.where(sees, scores, float("-inf"))
    power = scale * _LOG2_E
    more = gl.maximum(most, gl.max(scores, 1))
    weights = gl.exp2(scores * power - (more * power)[:, None])
    kept = gl.exp2((most - more) * power)
    return weights, more, total * kept + gl.sum(weights, 1), kept


@gluon.jit
def _after(total):
    """Nothing that follows is moved before what these sums come from.

    The compiler would have waiting for a product come before weighing, which is to fill that time.
    A store that depends on the sums, and never happens as none is below 0, holds it back.
    """
    return gl.inline_asm_elementwise(
        "{ .reg .pred never; .reg .b32 at; mov.b32 at, 0; setp.lt.f32 never, $1, 0f00000000;"
        " @never st.volatile.shared.f32 [at], $1; mov.b32 $0, $1; }",
        "=f,f",
        [total],
        dtype=gl.float32,
        is_pure=False,
        pack=1,
    )


@gluon.jit
def _write(
    output, found, total, value_scale, first, count, head,
    WHICH: gl.constexpr, HEADS: gl.constexpr, SHARING: gl.constexpr,
):  # fmt: skip
    """The rows of this group of warps."""
    SIZE: gl.constexpr = found.shape[1]
    LANES: gl.constexpr = SIZE // 8
    factor = gl.convert_layout(value_scale / total, gl.SliceLayout(1, found.type.layout))
    rounded = (found * factor[:, None]).to(output.dtype.element_ty)
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [32 // LANES, LANES], [4, 1], [1, 0])
    rounded = gl.convert_layout(rounded, layout)
    row = gl.arange(0, _ROWS, gl.SliceLayout(1, layout)) + WHICH * _ROWS
    number = gl.arange(0, SIZE, gl.SliceLayout(0, layout))
    token = row // SHARING
    own = output + (first.to(gl.int64) * HEADS + head * SHARING) * SIZE
    line = (token * HEADS + row % SHARING) * SIZE
    gl.store(own + line[:, None] + number[None, :], rounded, mask=(token < count)[:, None])
