"""Integers of 2, 3, 4 or 8 bits become numbers in the very registers that tensor cores take.

A word holds what one thread gives to a tensor core, in pairs of rows and columns that lie beside
each other there: a mask, now and then a shift, and a subtraction for two numbers, no exchange
between threads. Where they lie in a word `int_packing` says.
"""

import triton
import triton.language as tl

UNIT = tl.constexpr(64)  # rows that four warps give to a tensor core, and that are packed together
ZEROS = tl.constexpr(511)  # bits of a factor: its zero point; above it the scale, an fp32 cut off
_LESS_NARROW = tl.constexpr("sub.f16x2 $0, $1, $2;")
_LESS_WIDE = tl.constexpr(  # there is no such subtraction before Hopper
    "{ .reg .b32 minus; mov.b32 minus, 0xBF80BF80; fma.rn.bf16x2 $0, $2, minus, $1; }"
)


@triton.jit
def numbers(
    words,
    thirds,
    factor,
    WIDE: tl.constexpr,
    BITS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    FOURS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """Integers less their zero points, [ROWS, DEPTH]: exact, in bf16 if WIDE, else in fp16.

    Warps, the lanes of each, and what a lane holds are bits of rows and columns as `pack` has them.
    `thirds` are the third words of three that hold 32 integers of 3 bits; else nothing reads them.
    """
    if BITS < 4:
        found = _few_bits(words, thirds, factor, WIDE, BITS, ROWS, DEPTH, FOURS, PAIRS)
    else:
        found = _many_bits(words, factor, WIDE, BITS, ROWS, DEPTH, FOURS, PAIRS)
    return found


@triton.jit
def _few_bits(
    words,
    thirds,
    factor,
    WIDE: tl.constexpr,
    BITS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    FOURS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """Of 2 or 3 bits."""
    UNITS: tl.constexpr = ROWS // UNIT
    RUN: tl.constexpr = DEPTH // (32 if BITS == 2 else 64)  # that lie side by side
    zero = (factor & ZEROS).reshape(UNITS, 4, 2, 8).permute(0, 1, 3, 2)
    upper, lower = tl.split(zero[:, :, :, None, None, :])  # of the first 8 rows, of the second
    words = words.to(tl.uint32, bitcast=True)
    if BITS == 2:
        words = words.reshape(UNITS, 4, 8, 4, RUN)
        pairs = _twos(words, upper, lower, WIDE, PAIRS)
    else:
        first, second = tl.split(words.reshape(UNITS, 4, 8, 4, RUN, 2))
        third = thirds.to(tl.uint32, bitcast=True).reshape(UNITS, 4, 8, 4, RUN)
        pairs = _threes(first, second, third, upper, lower, WIDE, PAIRS)
    low, high = halves(pairs, WIDE)
    # Units, warps, rows, pairs of columns, 16 columns, the other 8 rows, the other columns.
    found = tl.join(low, high).reshape(UNITS, 4, 8, 4, DEPTH // 16, 2, 2, 2)
    if FOURS:
        found = found.permute(0, 1, 5, 2, 4, 3, 6, 7)
    else:
        found = found.permute(0, 1, 5, 2, 4, 6, 3, 7)
    return found.reshape(ROWS, DEPTH)


@triton.jit
def _twos(words, upper, lower, WIDE: tl.constexpr, PAIRS: tl.constexpr):
    """All of words that hold 16 each."""
    return _eight(
        _field(words, upper, 0, 2, WIDE, PAIRS),
        _field(words, upper, 1, 2, WIDE, PAIRS),
        _field(words, lower, 2, 2, WIDE, PAIRS),
        _field(words, lower, 3, 2, WIDE, PAIRS),
        _field(words, upper, 4, 2, WIDE, PAIRS),
        _field(words, upper, 5, 2, WIDE, PAIRS),
        _field(words, lower, 6, 2, WIDE, PAIRS),
        _field(words, lower, 7, 2, WIDE, PAIRS),
    )


@triton.jit
def _threes(first, second, third, upper, lower, WIDE: tl.constexpr, PAIRS: tl.constexpr):
    """All of words that hold ten each, and what three together hold in the bits that are left."""
    MARK: tl.constexpr = 0x43004300 if WIDE else 0x64006400
    left = _marked(first >> 15, 0x00010001, MARK, PAIRS)
    left |= ((second >> 14) & 0x00020002) | ((third >> 13) & 0x00040004)
    return _eight(
        tl.join(_field(first, upper, 0, 3, WIDE, PAIRS), _field(second, upper, 3, 3, WIDE, PAIRS)),
        tl.join(_field(first, upper, 1, 3, WIDE, PAIRS), _field(second, upper, 4, 3, WIDE, PAIRS)),
        tl.join(_field(first, lower, 2, 3, WIDE, PAIRS), _field(third, lower, 0, 3, WIDE, PAIRS)),
        tl.join(_field(first, lower, 3, 3, WIDE, PAIRS), _field(third, lower, 1, 3, WIDE, PAIRS)),
        tl.join(_field(first, upper, 4, 3, WIDE, PAIRS), _field(third, upper, 2, 3, WIDE, PAIRS)),
        tl.join(_field(second, upper, 0, 3, WIDE, PAIRS), _field(third, upper, 3, 3, WIDE, PAIRS)),
        tl.join(_field(second, lower, 1, 3, WIDE, PAIRS), _field(third, lower, 4, 3, WIDE, PAIRS)),
        tl.join(
            _field(second, lower, 2, 3, WIDE, PAIRS), _unmarked(left, lower, 0, MARK, WIDE, PAIRS)
        ),
    )


@triton.jit
def _eight(one, two, three, four, five, six, seven, eight):
    """Joined along three new dimensions."""
    first = tl.join(tl.join(one, five), tl.join(three, seven))
    return tl.join(first, tl.join(tl.join(two, six), tl.join(four, eight)))


@triton.jit
def _field(
    words, zero, PLACE: tl.constexpr, BITS: tl.constexpr, WIDE: tl.constexpr, PAIRS: tl.constexpr
):
    """Two integers from one place, less their zero point.

    Two or three places share a shift: the higher one lies, the smaller the power of two is that it
    becomes the last bits of.
    """
    EACH: tl.constexpr = 6 // BITS
    AT: tl.constexpr = PLACE % EACH * BITS
    MASK: tl.constexpr = 0x00010001 * ((1 << BITS) - 1) << AT
    MARK: tl.constexpr = 0x00010001 * (0x4300 - (AT << 7) if WIDE else 0x6400 - (AT << 10))
    marked = _marked(words >> (PLACE // EACH * 6), MASK, MARK, PAIRS)
    return _unmarked(marked, zero, AT, MARK, WIDE, PAIRS)


@triton.jit
def _unmarked(
    marked, zero, AT: tl.constexpr, MARK: tl.constexpr, WIDE: tl.constexpr, PAIRS: tl.constexpr
):
    """Less the zero point and what the mark has added."""
    others = zero.to(tl.uint32) * (0x00010001 << AT) + MARK
    return less(marked, others.broadcast_to(marked.shape), WIDE, PAIRS)


@triton.jit
def _many_bits(
    words,
    factor,
    WIDE: tl.constexpr,
    BITS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    FOURS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """Of 4 or 8 bits."""
    VALUES: tl.constexpr = DEPTH * BITS // 64  # words that a thread has of a tile
    RUN: tl.constexpr = min(4, VALUES)  # that lie side by side
    KIND: tl.constexpr = tl.bfloat16 if WIDE else tl.float16
    # What numbers are more than their integers, in the first of two times 8 rows and in the second.
    OF_WIDE: tl.constexpr = 128 if BITS == 4 else -128
    UPPER: tl.constexpr = OF_WIDE if WIDE else 1024
    LOWER: tl.constexpr = 64 if BITS == 4 and not WIDE else UPPER
    words = words.to(tl.uint32, bitcast=True)
    if BITS == 4:
        words = words.reshape(ROWS // UNIT, VALUES // RUN, 4, 8, 4, RUN)
        first, second = _fours(words, WIDE, PAIRS), _fours(words >> 8, WIDE, PAIRS)
    else:
        words = words.reshape(ROWS // UNIT, VALUES // RUN, 4, 8, 4, RUN // 2, 2)
        first, second = _eights(words, WIDE, PAIRS), _eights(words >> 8, WIDE, PAIRS)
    pairs = tl.join(first, second)
    # Units, runs, warps, rows, pairs of columns, 16 columns, the other 8 rows, the other columns.
    zero = (factor & ZEROS).reshape(ROWS // UNIT, 1, 4, 2, 8).permute(0, 1, 2, 4, 3)
    upper, lower = tl.split(zero)
    zero = tl.join(upper + UPPER, lower + LOWER)
    zero = zero.to(tl.float32).to(KIND).to(tl.uint16, bitcast=True).to(tl.uint32)
    zero = (zero | (zero << 16))[:, :, :, :, None, None, :, None].broadcast_to(pairs.shape)
    low, high = halves(less(pairs, zero, WIDE, PAIRS), WIDE)
    found = tl.join(low, high)
    if FOURS:
        found = found.permute(0, 2, 6, 3, 1, 5, 4, 7, 8)
    else:
        found = found.permute(0, 2, 6, 3, 1, 5, 7, 4, 8)
    return found.reshape(ROWS, DEPTH)


@triton.jit
def _fours(words, WIDE: tl.constexpr, PAIRS: tl.constexpr):
    """Of the first and the second of two times 8 rows two integers of 4 bits, and an offset."""
    if WIDE:
        upper = _marked(words, 0x000F000F, 0x43004300, PAIRS)
        lower = _marked(words >> 4, 0x000F000F, 0x43004300, PAIRS)
    else:  # that has room for all eight bits
        upper = _marked(words, 0x000F000F, 0x64006400, PAIRS)
        lower = _marked(words, 0x00F000F0, 0x54005400, PAIRS)
    return tl.join(upper, lower)


@triton.jit
def _eights(words, WIDE: tl.constexpr, PAIRS: tl.constexpr):
    """Two integers of 8 bits, of which the highest is kept turned over.

    In fp16 and 1024 each. In bf16 they are less 128: seven bits and 128, less 128 or 256.
    """
    if WIDE:
        seven = _marked(words, 0x007F007F, 0x43004300, PAIRS)
        found = less(seven, _marked(words, 0x00800080, 0x43004300, PAIRS), WIDE, PAIRS)
    else:
        found = _marked(words, 0x00FF00FF, 0x64806480, PAIRS)
    return found


@triton.jit
def _marked(words, MASK: tl.constexpr, MARK: tl.constexpr, PAIRS: tl.constexpr):
    """Some bits of words, some others turned over. Of two operations compilers make no LOP3."""
    if PAIRS:
        found = tl.inline_asm_elementwise(
            "lop3.b32 $0, $1, $2, $3, 0x6A;", "=r,r,r,r", [words, MASK, MARK],
            dtype=tl.uint32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        found = (words & MASK) ^ MARK
    return found


@triton.jit
def less(pairs, others, WIDE: tl.constexpr, PAIRS: tl.constexpr):
    """Pairs of numbers of 16 bits less others, two at once: but Triton's interpreter cannot."""
    if PAIRS:
        LESS: tl.constexpr = _LESS_WIDE if WIDE else _LESS_NARROW
        found = tl.inline_asm_elementwise(
            LESS, "=r,r,r", [pairs, others], dtype=tl.uint32, is_pure=True, pack=1
        )
    else:
        KIND: tl.constexpr = tl.bfloat16 if WIDE else tl.float16
        low, high = halves(pairs, WIDE)
        other_low, other_high = halves(others, WIDE)
        low = (low.to(tl.float32) - other_low.to(tl.float32)).to(KIND)
        high = (high.to(tl.float32) - other_high.to(tl.float32)).to(KIND)
        high = high.to(tl.uint16, bitcast=True).to(tl.uint32) << 16
        found = low.to(tl.uint16, bitcast=True).to(tl.uint32) | high
    return found


@triton.jit
def halves(pairs, WIDE: tl.constexpr):
    """The first numbers of pairs, and the second."""
    KIND: tl.constexpr = tl.bfloat16 if WIDE else tl.float16
    low, high = pairs.to(tl.uint16), (pairs >> 16).to(tl.uint16)
    return low.to(KIND, bitcast=True), high.to(KIND, bitcast=True)
