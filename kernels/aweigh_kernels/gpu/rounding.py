"""See `rounding`. A program has whole rows, or pieces of one that share nothing.

Quotients are divided as IEEE 754 says, and halves go to the even number: the bits are those of the
weights' references.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

GROUP = tl.constexpr(128)  # numbers that share a scale, where a token has several
_E4M3 = tl.constexpr(448.0)  # the largest
_LOW = tl.constexpr(-128.0)
_HIGH = tl.constexpr(127.0)
_SMALLEST = tl.constexpr(1.1754943508222875e-38)  # a scale: a token of zeros stays one
_WHOLE = tl.constexpr(12582912.0)  # 1.5 · 2^23: the sum with it has no room for fractions


@triton.jit(do_not_specialize=("num_rows",))
def round_as_given(
    x,
    rounded,
    scales,
    zeros,
    given_scale,
    given_zero,
    num_rows,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    PIECE: tl.constexpr,
    ZERO: tl.constexpr,
    EARLY: tl.constexpr,
):
    """A piece of a row, by a scale that is known."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * PIECE + tl.arange(0, PIECE)
    wide = tl.load(x + row * SIZE + column, mask=column < SIZE, other=0.0).to(tl.float32)
    scale = tl.load(given_scale)
    zero = 0.0
    if ZERO:
        zero = tl.load(given_zero).to(tl.float32)
    numbers = _rounded(wide, scale, zero, rounded.dtype.element_ty)
    tl.store(rounded + row * WIDTH + column, numbers, mask=column < WIDTH)
    if tl.program_id(1) == 0:
        tl.store(scales + row, scale)
        if ZERO:
            tl.store(zeros + row, tl.cast(zero, tl.int32))


@triton.jit(do_not_specialize=("num_rows",))
def round_by_token(
    x,
    rounded,
    scales,
    zeros,
    num_rows,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    PIECE: tl.constexpr,
    ZERO: tl.constexpr,
    EARLY: tl.constexpr,
):
    """A row. One that is longer than a piece is read again, from a cache."""
    PIECES: tl.constexpr = (WIDTH + PIECE - 1) // PIECE
    kind = rounded.dtype.element_ty
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, PIECE)
    own = x + row * SIZE
    wide = tl.load(own + column, mask=column < SIZE, other=0.0).to(tl.float32)
    low, high = tl.min(wide, 0), tl.max(wide, 0)
    lost = tl.sum(wide * 0.0, 0)  # no number, if one of the row is none
    for piece in tl.static_range(1, PIECES):
        at = piece * PIECE + column
        more = tl.load(own + at, mask=at < SIZE, other=0.0).to(tl.float32)
        low, high = tl.minimum(low, tl.min(more, 0)), tl.maximum(high, tl.max(more, 0))
        lost += tl.sum(more * 0.0, 0)
    zero = 0.0
    if ZERO:
        low, high = tl.minimum(low, 0.0), tl.maximum(high, 0.0)
        scale = tl.maximum(tl.div_rn(high - low, _HIGH - _LOW), _SMALLEST)
        zero = tl.clamp(_whole(_LOW - tl.div_rn(low, scale)), _LOW, _HIGH)
        tl.store(zeros + row, zero.to(tl.int32))
    else:
        scale = tl.div_rn(tl.maximum(-low, high), _HIGH if kind.is_int() else _E4M3)
        scale = tl.maximum(scale, _SMALLEST)
    tl.store(scales + row, scale + lost)
    tl.store(rounded + row * WIDTH + column, _rounded(wide, scale, zero, kind), mask=column < WIDTH)
    for piece in tl.static_range(1, PIECES):
        at = piece * PIECE + column
        more = tl.load(own + at, mask=at < SIZE, other=0.0).to(tl.float32)
        tl.store(rounded + row * WIDTH + at, _rounded(more, scale, zero, kind), mask=at < WIDTH)


@triton.jit(do_not_specialize=("num_rows",))
def round_by_group(
    x,
    rounded,
    scales,
    num_rows,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    PIECE: tl.constexpr,
    EARLY: tl.constexpr,
):
    """A piece of a row, which is some whole groups. Scales of a group lie side by side."""
    GROUPS: tl.constexpr = PIECE // GROUP
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    column = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    wide = tl.load(x + row * SIZE + column, mask=column < SIZE, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.div_rn(tl.max(tl.abs(wide), 1), _E4M3), _SMALLEST)
    numbers = _rounded(wide, scale[:, None], 0.0, rounded.dtype.element_ty)
    tl.store(rounded + row * WIDTH + column, numbers, mask=column < WIDTH)
    tl.store(scales + group.to(tl.int64) * num_rows + row, scale, mask=group * GROUP < WIDTH)


@triton.jit
def _rounded(wide, scale, zero, kind: tl.constexpr):
    """What is no number stays none in E4M3."""
    if kind.is_int():
        found = _whole(tl.clamp(tl.div_rn(wide, scale) + zero, _LOW, _HIGH)).to(kind)
    else:
        found = tl.clamp(
            tl.div_rn(wide, scale), -_E4M3, _E4M3, propagate_nan=tl.PropagateNan.ALL
        ).to(kind)
    return found


@triton.jit
def _whole(number):
    """Rounded to the nearest integer, halves to the even one."""
    return (number + _WHOLE) - _WHOLE
