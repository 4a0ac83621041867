"""See `fp4_blocks`. Tensor cores multiply codes with their scales: nothing is unpacked."""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from aweigh_kernels.gpu.fp4_matmul import GROUP
from aweigh_kernels.gpu.fp4_rounding import swizzled
from aweigh_kernels.gpu.skinny_matmul import joined

ROWS = tl.constexpr(128)  # of the weight, of one program
_KIND = tl.constexpr("e2m1")


@triton.jit(do_not_specialize=("num_tokens",))
def multiply(
    codes,
    scales,
    of_all,
    weight,
    weight_scales,
    factors,
    output,
    sums,
    arrived,
    num_tokens,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    TOKENS: tl.constexpr,
    DEPTH: tl.constexpr,
    SPLITS: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Some rows of the weight, some of their numbers, and some tokens."""
    STEPS: tl.constexpr = (IN + DEPTH * SPLITS - 1) // (DEPTH * SPLITS)
    EVEN: tl.constexpr = IN == STEPS * DEPTH * SPLITS
    COLUMNS: tl.constexpr = IN // GROUP
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    first = tl.program_id(2) * TOKENS
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = first + tl.arange(0, TOKENS)
    # Rows and tokens past the end are the last ones again: nothing of them is written.
    own = weight + tl.minimum(row, OUT - 1).to(tl.int64)[:, None] * (IN // 2)
    given = codes + tl.minimum(token, num_tokens - 1).to(tl.int64)[None, :] * (IN // 2)
    begin = tl.program_id(1) * (STEPS * DEPTH)
    total = tl.zeros([ROWS, TOKENS], tl.float32)
    for step in range(STEPS):
        at = begin + step * DEPTH
        byte = at // 2 + tl.arange(0, DEPTH // 2)
        group = at // GROUP + tl.arange(0, DEPTH // GROUP)
        known = group < COLUMNS
        if EVEN:
            left, right = tl.load(own + byte[None, :]), tl.load(given + byte[:, None])
        else:
            inside = byte < IN // 2
            left = tl.load(own + byte[None, :], mask=inside[None, :], other=0)
            right = tl.load(given + byte[:, None], mask=inside[:, None], other=0)
        left_scale = _scales(weight_scales, row, group, known, COLUMNS)
        right_scale = _scales(scales, token, group, known, COLUMNS)
        total = tl.dot_scaled(left, left_scale, _KIND, right, right_scale, _KIND, total)
    tile = tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
    total, last = joined(total, sums, arrived, tile, num_tokens - first, TOKENS, ROWS, SPLITS)
    if last:
        factor = tl.load(factors + row, mask=row < OUT, other=0.0) * tl.load(of_all).to(tl.float32)
        to = output + token.to(tl.int64)[None, :] * OUT + row[:, None]
        written = (row < OUT)[:, None] & (token < num_tokens)[None, :]
        tl.store(to, (total * factor[:, None]).to(output.dtype.element_ty), mask=written)


@triton.jit
def _scales(scales, row, group, known, COLUMNS: tl.constexpr):
    """E4M3 of some rows and groups, 0 behind the last of these. Rows are there in whole blocks."""
    place = swizzled(row[:, None], group[None, :], COLUMNS)
    return tl.load(scales + place, mask=known[None, :], other=0.0)
