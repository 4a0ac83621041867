"""See `round_rows`. A program has whole rows, or pieces of one that share nothing.

Quotients are divided as IEEE 754 says, and halves go to the even number: the bits are those of the
weights' references.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from aweigh_kernels import rounding
from aweigh_kernels.gpu.gated import gated_numbers

GROUP = tl.constexpr(rounding.GROUP)
_E4M3 = tl.constexpr(448.0)  # the largest
_LOW = tl.constexpr(-128.0)
_HIGH = tl.constexpr(127.0)
_SMALLEST = tl.constexpr(1.1754943508222875e-38)  # a scale: a token of zeros stays one
_SMALL = tl.constexpr(8.673617379884035e-19)  # 2^-60: what is left of a division by less gets lost
_RAISED = tl.constexpr(1.8446744073709552e19)  # 2^64
_WHOLE = tl.constexpr(12582912.0)  # 1.5 · 2^23: the sum with it has no room for fractions


@triton.jit
def round_as_given(
    x,
    numbers,
    scales,
    zeros,
    given_scale,
    given_zero,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    PIECE: tl.constexpr,
    GATED: tl.constexpr,
    GELU: tl.constexpr,
    ZERO: tl.constexpr,
    EARLY: tl.constexpr,
):
    """A piece of a row, by a scale that is known."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * PIECE + tl.arange(0, PIECE)
    wide = _wide(x, row, column, SIZE, GATED, GELU)
    scale, zero = given(given_scale, given_zero, ZERO)
    found = nearest(wide, scale, zero, numbers.dtype.element_ty)
    tl.store(numbers + row * WIDTH + column, found, mask=column < WIDTH)
    if tl.program_id(1) == 0:
        tl.store(scales + row, scale)
        if ZERO:
            tl.store(zeros + row, zero.to(tl.int32))


@triton.jit
def round_by_token(
    x,
    numbers,
    scales,
    zeros,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    PIECE: tl.constexpr,
    GATED: tl.constexpr,
    GELU: tl.constexpr,
    ZERO: tl.constexpr,
    EARLY: tl.constexpr,
):
    """A row. One that is longer than a piece is read again, from a cache."""
    PIECES: tl.constexpr = (WIDTH + PIECE - 1) // PIECE
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, PIECE)
    kind = numbers.dtype.element_ty
    wide = _wide(x, row, column, SIZE, GATED, GELU)
    low, high, largest = 0.0, 0.0, size_of(wide, 0)
    if ZERO:
        low, high = tl.min(wide, 0), tl.max(wide, 0)
    for piece in tl.static_range(1, PIECES):
        more = _wide(x, row, piece * PIECE + column, SIZE, GATED, GELU)
        largest = tl.maximum(largest, size_of(more, 0))
        if ZERO:
            low, high = tl.minimum(low, tl.min(more, 0)), tl.maximum(high, tl.max(more, 0))
    scale, zero, told = fitted(low, high, largest, kind, ZERO)
    tl.store(scales + row, told)
    if ZERO:
        tl.store(zeros + row, zero.to(tl.int32))
    to = numbers + row * WIDTH + column
    tl.store(to, nearest(wide, scale, zero, kind), mask=column < WIDTH)
    for piece in tl.static_range(1, PIECES):
        at = piece * PIECE + column
        more = _wide(x, row, at, SIZE, GATED, GELU)
        tl.store(to + piece * PIECE, nearest(more, scale, zero, kind), mask=at < WIDTH)


@triton.jit
def round_by_largest(
    x,
    largest,
    numbers,
    scales,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    PIECE: tl.constexpr,
    PARTS: tl.constexpr,
    PARTS_UP: tl.constexpr,
    EARLY: tl.constexpr,
):
    """A piece of a row of which it is known how large its parts are at most; see `size_of`."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * PIECE + tl.arange(0, PIECE)
    wide = _wide(x, row, column, SIZE, False, False)
    part = tl.arange(0, PARTS_UP)
    each = tl.load(largest + row * PARTS + part, mask=part < PARTS, other=0)
    kind = numbers.dtype.element_ty
    scale, zero, told = fitted(0.0, 0.0, tl.max(each, 0), kind, False)
    tl.store(numbers + row * WIDTH + column, nearest(wide, scale, zero, kind), mask=column < WIDTH)
    if tl.program_id(1) == 0:
        tl.store(scales + row, told)


@triton.jit(do_not_specialize=("num_rows",))
def round_by_group(
    x,
    numbers,
    scales,
    num_rows,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    PIECE: tl.constexpr,
    GATED: tl.constexpr,
    GELU: tl.constexpr,
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
    wide = _wide(x, row, column, SIZE, GATED, GELU)
    kind = numbers.dtype.element_ty
    scale, zero = fitting(tl.min(wide, 1), tl.max(wide, 1), kind, False)
    found = nearest(wide, scale[:, None], zero[:, None], kind)
    tl.store(numbers + row * WIDTH + column, found, mask=column < WIDTH)
    tl.store(scales + group.to(tl.int64) * num_rows + row, scale, mask=group * GROUP < WIDTH)


@triton.jit
def given(given_scale, given_zero, ZERO: tl.constexpr):
    """A scale and a zero point, 0 if there is none, both fp32."""
    scale = tl.load(given_scale)
    zero = tl.zeros_like(scale)
    if ZERO:
        zero = tl.load(given_zero).to(tl.float32)
    return scale, zero


@triton.jit
def size_of(wide, axis: tl.constexpr):
    """How large numbers are at most: the bits of their absolute values, whose order is the same.

    Above all is what is no number, so that one search finds that, too.
    """
    return tl.max(wide.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis)


@triton.jit
def fitted(low, high, largest, kind: tl.constexpr, ZERO: tl.constexpr):
    """Scale and zero point of rows, and the scale that is told: none, where a number is none.

    Args:
        low: with ZERO, the lowest number of each row.
        high: likewise, the highest.
        largest: `size_of` each row.
        kind: that they become.
        ZERO: whether there is a zero point.
    """
    most = largest.to(tl.float32, bitcast=True)
    if ZERO:
        scale, zero = fitting(low, high, kind, True)
    else:
        scale, zero = fitting(-most, most, kind, False)
    return scale, zero, scale + most * 0.0


@triton.jit
def fitting(low, high, kind: tl.constexpr, ZERO: tl.constexpr):
    """The scale and the zero point of numbers that lie between two, both fp32."""
    if ZERO:
        low, high = tl.minimum(low, 0.0), tl.maximum(high, 0.0)
        scale = tl.maximum(tl.div_rn(high - low, _HIGH - _LOW), _SMALLEST)
        zero = tl.clamp(_whole(_LOW - tl.div_rn(low, scale)), _LOW, _HIGH)
    else:
        scale = tl.div_rn(tl.maximum(-low, high), _HIGH if kind.is_int() else _E4M3)
        scale = tl.maximum(scale, _SMALLEST)
        zero = tl.zeros_like(scale)
    return scale, zero


@triton.jit
def nearest(wide, scale, zero, kind: tl.constexpr):
    """Of 8 bits. What is no number stays none in E4M3."""
    quotient = _quotient(wide, scale)
    if kind.is_int():
        found = _whole(tl.clamp(quotient + zero, _LOW, _HIGH)).to(kind)
    else:
        found = tl.clamp(quotient, -_E4M3, _E4M3, propagate_nan=tl.PropagateNan.ALL).to(kind)
    return found


@triton.jit
def _quotient(number, divisor):
    """As IEEE 754 says, for a normal divisor that many numbers have.

    A division of the GPU branches for each number. Here the divisor is inverted once, and what is
    left of the number corrects the quotient twice: it is off by one place at most, then right
    (Markstein 1990, "Computation of elementary functions on the IBM RISC System/6000 processor").
    """
    raised = tl.where(divisor < _SMALL, _RAISED, 1.0)
    divisor *= raised
    inverse = tl.div_rn(1.0, divisor)
    number = number * raised
    first = number * inverse
    found = tl.fma(tl.fma(-first, divisor, number), inverse, first)
    found = tl.fma(tl.fma(-found, divisor, number), inverse, found)
    return tl.where(first * 0.5 != first, found, first)  # of 0, of either sign, and of infinity


@triton.jit
def _wide(x, row, column, SIZE: tl.constexpr, GATED: tl.constexpr, GELU: tl.constexpr):
    """Numbers of a row, or what gates let by of them; 0 behind the last."""
    inside = column < SIZE
    if GATED:
        found = gated_numbers(x + row * (2 * SIZE) + column, inside, SIZE, GELU)
    else:
        found = tl.load(x + row * SIZE + column, mask=inside, other=0.0)
    return found.to(tl.float32)


@triton.jit
def _whole(number):
    """Rounded to the nearest integer, halves to the even one."""
    return (number + _WHOLE) - _WHOLE
