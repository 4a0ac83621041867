"""See `rms_norm`. A program holds its rows in registers: what it reads, it reads once."""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from aweigh_kernels.gpu.ahead import ask
from aweigh_kernels.gpu.rounding import GROUP, fitted, fitting, given, nearest, size_of

BY_TOKEN = tl.constexpr(1)
BY_GROUP = tl.constexpr(2)


@triton.jit(do_not_specialize=("num_rows",))
def normalize(
    x,
    residual,
    weight,
    output,
    num_rows,
    eps,
    SIZE: tl.constexpr,
    SIZE_UP: tl.constexpr,
    ROWS: tl.constexpr,
    ADD: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Some whole rows."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, SIZE_UP)
    normed = _normed(x, residual, weight, row, column, num_rows, eps, SIZE, SIZE_UP, ADD, EARLY)
    there = (row < num_rows)[:, None] & (column < SIZE)[None, :]
    tl.store(output + row[:, None] * SIZE + column[None, :], normed, mask=there)


@triton.jit(do_not_specialize=("num_rows",))
def normalize_rounded(
    x,
    residual,
    weight,
    numbers,
    scales,
    zeros,
    given_scale,
    given_zero,
    num_rows,
    eps,
    SIZE: tl.constexpr,
    SIZE_UP: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    ADD: tl.constexpr,
    BY: tl.constexpr,
    ZERO: tl.constexpr,
    EARLY: tl.constexpr,
):
    """The same, and rounded to 8 bits: the bits of both, one after the other."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, SIZE_UP)
    kind = numbers.dtype.element_ty
    wide = _normed(x, residual, weight, row, column, num_rows, eps, SIZE, SIZE_UP, ADD, EARLY).to(
        tl.float32
    )
    known = row < num_rows
    if BY == BY_GROUP:
        GROUPS: tl.constexpr = SIZE_UP // GROUP
        parts = wide.reshape(ROWS, GROUPS, GROUP)
        scale, zero = fitting(tl.min(parts, 2), tl.max(parts, 2), kind, False)
        found = nearest(parts, scale[:, :, None], zero[:, :, None], kind).reshape(ROWS, SIZE_UP)
        group = tl.arange(0, GROUPS)
        to = scales + group.to(tl.int64)[None, :] * num_rows + row[:, None]
        tl.store(to, scale, mask=known[:, None] & (group * GROUP < WIDTH)[None, :])
    else:
        if BY == BY_TOKEN:
            low, high = 0.0, 0.0
            if ZERO:
                low, high = tl.min(wide, 1), tl.max(wide, 1)
            scale, zero, told = fitted(low, high, size_of(wide, 1), kind, ZERO)
        else:
            scale, zero = given(given_scale, given_zero, ZERO)
            scale, zero = tl.full([ROWS], scale, tl.float32), tl.full([ROWS], zero, tl.float32)
            told = scale
        found = nearest(wide, scale[:, None], zero[:, None], kind)
        tl.store(scales + row, told, mask=known)
        if ZERO:
            tl.store(zeros + row, zero.to(tl.int32), mask=known)
    there = known[:, None] & (column < WIDTH)[None, :]
    tl.store(numbers + row[:, None] * WIDTH + column[None, :], found, mask=there)


@triton.jit
def _normed(
    x,
    residual,
    weight,
    row,
    column,
    num_rows,
    eps,
    SIZE: tl.constexpr,
    SIZE_UP: tl.constexpr,
    ADD: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Rows, 0 behind their last number."""
    if EARLY:
        gdc_launch_dependents()
        if tl.program_id(0) == 0:  # one is enough, and all of them would take longer than rows do
            line = tl.arange(0, SIZE_UP // 32 if SIZE_UP > 32 else 1) * 32
            ask(weight + tl.minimum(line, SIZE - 1))
        gdc_wait()
    inside = column < SIZE
    there = (row < num_rows)[:, None] & inside[None, :]
    at = row[:, None] * SIZE + column[None, :]
    hidden = tl.load(x + at, mask=there, other=0.0)
    if ADD:
        added = tl.load(residual + at, mask=there, other=0.0)
        hidden = (hidden.to(tl.float32) + added.to(tl.float32)).to(hidden.dtype)
        tl.store(residual + at, hidden, mask=there)
    weights = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    wide = hidden.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 1) / SIZE + eps)
    normed = wide * scale[:, None] * weights[None, :]
    return normed.to(hidden.dtype)
