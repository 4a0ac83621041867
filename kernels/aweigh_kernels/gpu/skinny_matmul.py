"""See `skinny_matmul`. The weight is the left matrix: its rows fill a tensor core, tokens do not.

Tiles of the weight come through shared memory while earlier ones are multiplied. Where several
programs share rows, the one that is done last adds all what have left, always in the same order.
In `multiply_gated` and `multiply_turned` half of a tile's rows are the others' partners: what
follows the product needs no other program's rows, and no kernel of its own.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from aweigh_kernels.gpu.ahead import LINE, ask


@triton.jit(do_not_specialize=("num_tokens",))
def multiply(
    x,
    weight,
    bias,
    output,
    sums,
    arrived,
    num_tokens,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    SPLITS: tl.constexpr,
    AHEAD: tl.constexpr,
    BIAS: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Some rows of the weight, some of their numbers."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    # Rows past the end are the last one again: no mask, and nothing of them is written.
    inputs, known = _columns(x, num_tokens, IN, TOKENS)
    total = products(
        inputs, known, weight, tl.minimum(row, OUT - 1), IN, TOKENS, ROWS, DEPTH, SPLITS, AHEAD,
        EARLY,
    )  # fmt: skip
    total, last = joined(total, sums, arrived, tl.program_id(0), num_tokens, TOKENS, ROWS, SPLITS)
    if last:
        if BIAS:
            total += tl.load(bias + row, mask=row < OUT, other=0.0).to(tl.float32)[:, None]
        token = tl.arange(0, TOKENS)
        to = output + token.to(tl.int64)[None, :] * OUT + row[:, None]
        written = (row < OUT)[:, None] & (token < num_tokens)[None, :]
        tl.store(to, total.to(output.dtype.element_ty), mask=written)


@triton.jit(do_not_specialize=("num_tokens",))
def multiply_gated(
    x,
    weight,
    bias,
    output,
    sums,
    arrived,
    num_tokens,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    SPLITS: tl.constexpr,
    AHEAD: tl.constexpr,
    BIAS: tl.constexpr,
    EARLY: tl.constexpr,
    GELU: tl.constexpr,
):
    """Some gates and what goes through them: as `gated` computes it from the rounded product."""
    HALF: tl.constexpr = ROWS // 2
    SIZE: tl.constexpr = OUT // 2
    place = tl.arange(0, ROWS)
    gate = tl.program_id(0) * HALF + place % HALF
    row = tl.minimum(gate, SIZE - 1) + place // HALF * SIZE
    inputs, known = _columns(x, num_tokens, IN, TOKENS)
    total = products(
        inputs, known, weight, row, IN, TOKENS, ROWS, DEPTH, SPLITS, AHEAD, EARLY
    )  # fmt: skip
    total, last = joined(total, sums, arrived, tl.program_id(0), num_tokens, TOKENS, ROWS, SPLITS)
    if last:
        if BIAS:
            total += tl.load(bias + row).to(tl.float32)[:, None]
        wide, up = _halves(total.to(output.dtype.element_ty).to(tl.float32), ROWS, TOKENS)
        opened = wide
        if GELU:  # 1 + tanh(y) is twice the sigmoid of 2y
            opened = 2 * 0.7978845608028654 * (wide + 0.044715 * wide * wide * wide)
        active = (wide / (1.0 + tl.exp(-opened))).to(output.dtype.element_ty)
        found = (active.to(tl.float32) * up).to(output.dtype.element_ty)
        token = tl.arange(0, TOKENS)
        column = tl.program_id(0) * HALF + tl.arange(0, HALF)
        to = output + token.to(tl.int64)[None, :] * SIZE + column[:, None]
        tl.store(to, found, mask=(column < SIZE)[:, None] & (token < num_tokens)[None, :])


@triton.jit(do_not_specialize=("num_tokens",))
def multiply_turned(
    x,
    weight,
    bias,
    output,
    sums,
    arrived,
    num_tokens,
    cos,
    sin,
    kv,
    slots,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    SPLITS: tl.constexpr,
    AHEAD: tl.constexpr,
    BIAS: tl.constexpr,
    EARLY: tl.constexpr,
    SIZE: tl.constexpr,
    KV_HEADS: tl.constexpr,
):
    """Some pairs of numbers of one head: as `rope_write` turns and keeps the rounded product."""
    HALF: tl.constexpr = ROWS // 2
    TILES: tl.constexpr = SIZE // ROWS  # of a head
    HEADS: tl.constexpr = OUT // SIZE - 2 * KV_HEADS  # of queries
    place = tl.arange(0, ROWS)
    head, tile = tl.program_id(0) // TILES, tl.program_id(0) % TILES
    row = head * SIZE + tile * HALF + place % HALF + place // HALF * (SIZE // 2)
    inputs, known = _columns(x, num_tokens, IN, TOKENS)
    total = products(
        inputs, known, weight, row, IN, TOKENS, ROWS, DEPTH, SPLITS, AHEAD, EARLY
    )  # fmt: skip
    total, last = joined(total, sums, arrived, tl.program_id(0), num_tokens, TOKENS, ROWS, SPLITS)
    if last:
        if BIAS:
            total += tl.load(bias + row).to(tl.float32)[:, None]
        kind = output.dtype.element_ty
        x1, x2 = _halves(total.to(kind).to(tl.float32), ROWS, TOKENS)
        token = tl.arange(0, TOKENS)
        known = (token < num_tokens)[None, :]
        pair = tile * HALF + tl.arange(0, HALF)
        angle = token[None, :] * SIZE + pair[:, None]
        y1, y2 = x1.to(kind), x2.to(kind)
        if head < HEADS + KV_HEADS:
            c = tl.load(cos + angle, mask=known, other=0.0).to(tl.float32)
            s = tl.load(sin + angle + SIZE // 2, mask=known, other=0.0).to(tl.float32)
            y1 = ((x1 * c).to(kind).to(tl.float32) - x2 * s).to(kind)
            y2 = ((x2 * c).to(kind).to(tl.float32) + x1 * s).to(kind)
        to = output + token.to(tl.int64)[None, :] * OUT + head * SIZE + pair[:, None]
        tl.store(to, y1, mask=known)
        tl.store(to + SIZE // 2, y2, mask=known)
        if head >= HEADS:
            slot = tl.load(slots + token, mask=token < num_tokens, other=-1)[None, :]
            kept = kv + (slot * (2 * KV_HEADS) + head - HEADS) * SIZE + pair[:, None]
            tl.store(kept, y1, mask=slot >= 0)
            tl.store(kept + SIZE // 2, y2, mask=slot >= 0)


@triton.jit
def _columns(x, num_tokens, IN: tl.constexpr, TOKENS: tl.constexpr):
    """Where tokens begin, [1, TOKENS], and which of them there are."""
    token = tl.arange(0, TOKENS)
    return x + token[None, :] * IN, (token < num_tokens)[None, :]


@triton.jit
def products(
    inputs,
    known,
    weight,
    row,
    IN: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    SPLITS: tl.constexpr,
    AHEAD: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Products of some rows with some tokens, over this program's part of their numbers."""
    STEPS: tl.constexpr = (IN + DEPTH * SPLITS - 1) // (DEPTH * SPLITS)
    EVEN: tl.constexpr = IN == STEPS * DEPTH * SPLITS
    own = weight + row.to(tl.int64)[:, None] * IN
    begin = tl.program_id(1) * (STEPS * DEPTH)
    if EARLY:
        gdc_launch_dependents()
        if EVEN and AHEAD > 0:
            ask(own + begin + (tl.arange(0, AHEAD // LINE) * LINE)[None, :])
        gdc_wait()
    total = tl.zeros([ROWS, TOKENS], tl.float32)
    for step in range(STEPS):
        at = begin + step * DEPTH + tl.arange(0, DEPTH)
        if EVEN:
            left = tl.load(own + at[None, :], eviction_policy="evict_first")
            right = tl.load(inputs + at[:, None], mask=known, other=0.0)
        else:
            inside = at < IN
            left = tl.load(own + at[None, :], mask=inside[None, :], other=0.0)
            right = tl.load(inputs + at[:, None], mask=known & inside[:, None], other=0.0)
        total = tl.dot(left, right, total)
    return total


@triton.jit
def joined(
    total,
    sums,
    arrived,
    tile,
    num_tokens,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """The sums of all programs that share a tile, and whether this is the one that has them."""
    last = True
    if SPLITS > 1:
        token = tl.arange(0, TOKENS)
        known = (token < num_tokens)[None, :]
        place = (tile * SPLITS * TOKENS + token[None, :]) * ROWS + tl.arange(0, ROWS)[:, None]
        tl.store(sums + place + tl.program_id(1) * (TOKENS * ROWS), total, mask=known)
        tl.debug_barrier()  # all of them, before one thread says so
        before = tl.atomic_add(arrived + tile, 1, sem="acq_rel", scope="gpu")
        last = before == SPLITS - 1
        if last:
            total = tl.zeros([ROWS, TOKENS], total.dtype)
            for part in tl.static_range(SPLITS):
                of_part = sums + place + part * (TOKENS * ROWS)
                total += tl.load(of_part, mask=known, other=0.0, cache_modifier=".cg")
            tl.store(arrived + tile, 0)
    return total, last


@triton.jit
def _halves(total, ROWS: tl.constexpr, TOKENS: tl.constexpr):
    """The first half of the rows, and the second."""
    return tl.split(total.reshape(2, ROWS // 2, TOKENS).permute(1, 2, 0))
