"""See `fp4_rounding`. A program has some groups of 16 numbers, wherever rows end.

All quotients are those of IEEE 754, to the bit. Those of numbers are not divided, which would take
longer than to read them: a quotient is corrected once by what it leaves over. That is exact unless
a quotient comes nearer to the middle of two fp32 numbers than the correction is off. Next to those
that lie halfway between values of E2M1 no number of 16 bits has such a quotient, whatever the
divisor; a search through all of them has found none.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from aweigh_kernels.gpu.fp4_matmul import GROUP
from aweigh_kernels.gpu.integers import halves

_HALF = tl.constexpr(8)
_LARGEST = tl.constexpr(6.0)
_LARGEST_SCALE = tl.constexpr(448.0)
_NORMAL_SCALE = tl.constexpr(0.015625)  # the smallest scale that is not subnormal
_TO_SCALE = tl.constexpr(24576.0)  # a sum with it has no room for less than 2^-9
_WHOLE = tl.constexpr(12582912.0)  # 1.5 · 2^23: a sum with it has no room for fractions
_MARK = tl.constexpr(0x4B400000)  # its bits


@triton.jit(do_not_specialize=("num_groups",))
def quantize_groups(
    x,
    global_scale,
    codes,
    scales,
    num_groups,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    SWIZZLED: tl.constexpr,
    FUSED: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Codes, eight in a word, and scales: of a row COLUMNS, or as `swizzled` has them."""
    group, there, first, second = _groups(x, num_groups, BLOCK, EARLY)
    kind: tl.constexpr = x.dtype.element_ty
    factor, code = _scales(first, second, global_scale, kind)
    one, other = _codes(first, factor, kind, FUSED), _codes(second, factor, kind, FUSED)
    words = tl.where((factor > 0.0)[:, None], tl.join(one, other), 0)
    place = group.to(tl.int64)
    tl.store(codes + place[:, None] * 2 + tl.arange(0, 2)[None, :], words, mask=there[:, None])
    if SWIZZLED:
        place = swizzled(group // COLUMNS, group % COLUMNS, COLUMNS)
    tl.store(scales + place, code.to(tl.uint8), mask=there)


@triton.jit(do_not_specialize=("num_groups",))
def round_groups(
    x,
    global_scale,
    output,
    num_groups,
    BLOCK: tl.constexpr,
    FUSED: tl.constexpr,
    EARLY: tl.constexpr,
):
    """What codes and scales mean, rounded to 16 bits again."""
    group, there, first, second = _groups(x, num_groups, BLOCK, EARLY)
    kind: tl.constexpr = x.dtype.element_ty
    factor, _ = _scales(first, second, global_scale, kind)
    to = output + group.to(tl.int64)[:, None] * GROUP + tl.arange(0, _HALF)[None, :]
    tl.store(to, _rounded(first, factor, kind, FUSED), mask=there[:, None])
    tl.store(to + _HALF, _rounded(second, factor, kind, FUSED), mask=there[:, None])


@triton.jit
def swizzled(row, column, COLUMNS: tl.constexpr):
    """Where tensor cores of Blackwell expect a scale: in blocks of 128 rows by 4 columns."""
    BLOCKS: tl.constexpr = (COLUMNS + 3) // 4
    block = (row // 128).to(tl.int64) * BLOCKS + column // 4
    return block * 512 + row % 32 * 16 + row % 128 // 32 * 4 + column % 4


@triton.jit
def _groups(x, num_groups, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """A program's groups, whether there are such, and both halves of them: four words of two.

    Halves, as the compiler gives a thread no more than 16 bytes: so it has all of a group.
    """
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    group = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = group < num_groups
    words = x.to(tl.pointer_type(tl.uint32)) + group.to(tl.int64)[:, None] * _HALF
    words += tl.arange(0, 4)[None, :]
    first = tl.load(words, mask=there[:, None], other=0)
    return group, there, first, tl.load(words + 4, mask=there[:, None], other=0)


@triton.jit
def _scales(first, second, global_scale, kind: tl.constexpr):
    """By what the numbers of groups are divided, fp32, and the bits of their scales, E4M3."""
    largest = _larger(_largest(first, kind), _largest(second, kind))
    of_all = tl.load(global_scale)
    wanted = tl.div_rn(tl.div_rn(largest, _LARGEST), of_all.to(tl.float32))
    wanted = tl.minimum(wanted, _LARGEST_SCALE, propagate_nan=tl.PropagateNan.ALL)
    bits = wanted.to(tl.int32, bitcast=True)
    normal = (bits + 0x0007FFFF + ((bits >> 20) & 1)) & -1048576
    below = wanted + _TO_SCALE
    small = wanted < _NORMAL_SCALE
    scale = tl.where(small, below - _TO_SCALE, normal.to(tl.float32, bitcast=True))
    code = tl.where(small, below.to(tl.int32, bitcast=True) - 0x46C00000, (normal >> 20) - 960)
    known = wanted == wanted
    scale, code = tl.where(known, scale, wanted), tl.where(known, code, 0x7F)
    return (scale.to(tl.float64) * of_all).to(tl.float32), code


@triton.jit
def _largest(words, kind: tl.constexpr):
    low, high = _wide(words, kind)
    sizes = _larger(tl.abs(low), tl.abs(high))
    one, other = tl.split(sizes.reshape(sizes.shape[0], 2, 2))
    one, other = tl.split(_larger(one, other))
    return _larger(one, other)


@triton.jit
def _wide(words, kind: tl.constexpr):
    """The first numbers of pairs, and the second, fp32."""
    if kind == tl.bfloat16:  # whose bits are the first ones of fp32
        low = (words << 16).to(tl.float32, bitcast=True)
        high = (words & 0xFFFF0000).to(tl.float32, bitcast=True)
    else:
        low, high = halves(words, False)
        low, high = low.to(tl.float32), high.to(tl.float32)
    return low, high


@triton.jit
def _larger(one, other):
    """What is no number, if one is none."""
    return tl.maximum(one, other, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _quotients(wide, factor, FUSED: tl.constexpr):
    """Magnitudes divided by their group's factor, 6 at most."""
    size = tl.abs(wide)
    if FUSED:
        inverse = tl.div_rn(1.0, factor)[:, None]
        quotient = size * inverse
        left = tl.fma(quotient, -factor[:, None], size)
        quotient = tl.fma(left, inverse, quotient)
    else:  # Triton's interpreter rounds products before it adds
        quotient = tl.div_rn(size, factor[:, None].broadcast_to(size.shape))
    return tl.minimum(quotient, _LARGEST)  # this, if it is no number


@triton.jit
def _codes(words, factor, kind: tl.constexpr, FUSED: tl.constexpr):
    """Of the nearest values, of two that with an even index: words of eight, [BLOCK]."""
    low, high = _wide(words, kind)
    # The sum of all ends is a multiple of 2^32 and MARKS.
    MARKS: tl.constexpr = (_MARK.value * 0x11111111) & 0xFFFFFFFF
    even, odd = _indices(low, factor, FUSED), _indices(high, factor, FUSED)
    one, other = tl.split((even + (odd << 4)).reshape(even.shape[0], 2, 2))
    one, other = tl.split(one + (other << 8))
    return (one + (other << 16) - MARKS) | _signs(words)


@triton.jit
def _indices(numbers, factor, FUSED: tl.constexpr):
    """Of magnitudes, and _MARK."""
    quotient = _quotients(numbers, factor, FUSED)
    # Up to 2 halves are counted, up to 4 ones, then twos: whatever is least.
    halves_of = (quotient * 2.0 + _WHOLE).to(tl.int32, bitcast=True)
    ones = (quotient + (_WHOLE + 2.0)).to(tl.int32, bitcast=True)
    twos = (quotient * 0.5 + (_WHOLE + 4.0)).to(tl.int32, bitcast=True)
    return tl.minimum(tl.minimum(halves_of, ones), twos).to(tl.uint32, bitcast=True)


@triton.jit
def _signs(words):
    """Of eight numbers, as codes have them."""
    one, other = tl.split(words.reshape(words.shape[0], 2, 2))
    first, third = tl.split(one)
    second, fourth = tl.split(other)
    even = _bytes(_bytes(first, second, 0x5151), _bytes(third, fourth, 0x5151), 0x5410)
    odd = _bytes(_bytes(first, second, 0x7373), _bytes(third, fourth, 0x7373), 0x5410)
    return ((even >> 4) & 0x08080808) | (odd & 0x80808080)


@triton.jit
def _bytes(one, other, WHICH: tl.constexpr):
    """Four of eight, the first of them last."""
    found = tl.zeros_like(one)
    for place in tl.static_range(4):
        which = (WHICH >> (4 * place)) & 7
        word = one if which < 4 else other
        found |= ((word >> (8 * (which % 4))) & 0xFF) << (8 * place)
    return found


@triton.jit
def _rounded(words, factor, kind: tl.constexpr, FUSED: tl.constexpr):
    """The nearest values times their group's factor; of two that with an even index."""
    low, high = _wide(words, kind)
    pairs = tl.join(_value(low, factor, FUSED), _value(high, factor, FUSED))
    return pairs.reshape(factor.shape[0], _HALF).to(kind)


@triton.jit
def _value(wide, factor, FUSED: tl.constexpr):
    quotient = _quotients(wide, factor, FUSED)
    to = tl.where(quotient < 4.0, _WHOLE, 2.0 * _WHOLE)
    to = tl.where(quotient < 2.0, 0.5 * _WHOLE, to)
    size = ((quotient + to) - to) * factor[:, None]
    sign = wide.to(tl.int32, bitcast=True) & -2147483648
    found = (size.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)
    return tl.where((factor > 0.0)[:, None], found, (factor * 0.0)[:, None])
