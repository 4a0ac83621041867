"""See `skinny_matmul`. The weight is the left matrix: its rows fill a tensor core, tokens do not.

Tiles of the weight come through shared memory while earlier ones are multiplied. Where several
programs share rows, the one that is done last adds all what have left, always in the same order.
In `multiply_gated` and `multiply_turned` what follows the product needs no kernel of its own.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from aweigh_kernels.gpu.ahead import LINE, ask
from aweigh_kernels.gpu.paired import gate_rows, head_rows, leave_gated, leave_turned


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
    """Some gates and what goes through them."""
    row = gate_rows(tl.program_id(0), OUT, ROWS)
    inputs, known = _columns(x, num_tokens, IN, TOKENS)
    total = products(
        inputs, known, weight, row, IN, TOKENS, ROWS, DEPTH, SPLITS, AHEAD, EARLY
    )  # fmt: skip
    total, last = joined(total, sums, arrived, tl.program_id(0), num_tokens, TOKENS, ROWS, SPLITS)
    if last:
        if BIAS:
            total += tl.load(bias + row).to(tl.float32)[:, None]
        leave_gated(total, output, tl.program_id(0), num_tokens, OUT, ROWS, TOKENS, GELU)


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
    key_scale,
    value_scale,
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
    FP8: tl.constexpr,
):
    """Some pairs of numbers of one head."""
    row = head_rows(tl.program_id(0), ROWS, SIZE)
    inputs, known = _columns(x, num_tokens, IN, TOKENS)
    total = products(
        inputs, known, weight, row, IN, TOKENS, ROWS, DEPTH, SPLITS, AHEAD, EARLY
    )  # fmt: skip
    total, last = joined(total, sums, arrived, tl.program_id(0), num_tokens, TOKENS, ROWS, SPLITS)
    if last:
        if BIAS:
            total += tl.load(bias + row).to(tl.float32)[:, None]
        leave_turned(
            total, output, tl.program_id(0), num_tokens, cos, sin, kv, slots, key_scale,
            value_scale, OUT, ROWS, TOKENS, SIZE, KV_HEADS, FP8,
        )  # fmt: skip


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
