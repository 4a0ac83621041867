"""See `skinny_matmul`. The weight is the left matrix: its rows fill a tensor core, tokens do not.

Tiles of the weight come through shared memory while earlier ones are multiplied. Where several
programs share rows, the one that is done last adds what all have left, always in the same order.
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
    STEPS: tl.constexpr = (IN + DEPTH * SPLITS - 1) // (DEPTH * SPLITS)
    EVEN: tl.constexpr = IN == STEPS * DEPTH * SPLITS
    tile, split = tl.program_id(0), tl.program_id(1)
    row = tile * ROWS + tl.arange(0, ROWS)
    # Rows past the end are the last one again: no mask, and nothing of them is written.
    own = weight + tl.minimum(row, OUT - 1).to(tl.int64)[:, None] * IN
    begin = split * (STEPS * DEPTH)
    if EARLY:
        gdc_launch_dependents()
        if EVEN and AHEAD > 0:
            ask(own + begin + (tl.arange(0, AHEAD // LINE) * LINE)[None, :])
        gdc_wait()
    token = tl.arange(0, TOKENS)
    known = (token < num_tokens)[None, :]
    inputs = x + token[None, :] * IN
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

    written = (row < OUT)[:, None] & known
    if SPLITS > 1:
        place = (tile * SPLITS * TOKENS + token[None, :]) * ROWS + tl.arange(0, ROWS)[:, None]
        tl.store(sums + place + split * (TOKENS * ROWS), total, mask=known)
        tl.debug_barrier()  # all of them, before one thread says so
        before = tl.atomic_add(arrived + tile, 1, sem="acq_rel", scope="gpu")
        if before == SPLITS - 1:
            total = tl.zeros([ROWS, TOKENS], tl.float32)
            for part in tl.static_range(SPLITS):
                of_part = sums + place + part * (TOKENS * ROWS)
                total += tl.load(of_part, mask=known, other=0.0, cache_modifier=".cg")
            _write(total, bias, output, row, token, written, OUT, BIAS)
            tl.store(arrived + tile, 0)
    else:
        _write(total, bias, output, row, token, written, OUT, BIAS)


@triton.jit
def _write(total, bias, output, row, token, written, OUT: tl.constexpr, BIAS: tl.constexpr):
    if BIAS:
        total += tl.load(bias + row, mask=row < OUT, other=0.0).to(tl.float32)[:, None]
    to = output + token.to(tl.int64)[None, :] * OUT + row[:, None]
    tl.store(to, total.to(output.dtype.element_ty), mask=written)
