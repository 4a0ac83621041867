"""See `int_matmul`. Integers become numbers in the very registers that tensor cores take them from.

A word holds what one thread gives to a tensor core at once, in pairs of rows and columns that lie
beside each other there: a shift, a mask and a subtraction for two numbers, no exchange between
threads. The tensor core multiplies small integers, exactly; sums of a group meet its scale, fp32.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from aweigh_kernels.gpu.ahead import ask
from aweigh_kernels.gpu.skinny_matmul import joined

UNIT = tl.constexpr(64)  # rows that four warps give to a tensor core, and that are packed together
ZEROS = tl.constexpr(511)  # bits of a factor: its zero point; above it the scale, an fp32 cut off
_LESS_NARROW = tl.constexpr("sub.f16x2 $0, $1, $2;")
_LESS_WIDE = tl.constexpr(  # there is no such subtraction before Hopper
    "{ .reg .b32 minus; mov.b32 minus, 0xBF80BF80; fma.rn.bf16x2 $0, $2, minus, $1; }"
)
_AHEAD = tl.constexpr(4)  # stages that are asked for while the kernel before ends
_LINE = tl.constexpr(32)  # words that the second-level cache asks memory for


@triton.jit(do_not_specialize=("num_tokens",))
def multiply(
    x,
    words,
    factors,
    output,
    sums,
    arrived,
    num_tokens,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    GROUP: tl.constexpr,
    BITS: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    SPLITS: tl.constexpr,
    UNROLL: tl.constexpr,
    EARLY: tl.constexpr,
    FOURS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """Some rows of the weight, some of their numbers, and some tokens."""
    first = tl.program_id(2) * TOKENS
    column = tl.arange(0, TOKENS)[None, :]
    total = products(
        x + first.to(tl.int64) * IN + column * IN, column < num_tokens - first, words, factors,
        tl.program_id(0), OUT, IN, GROUP, BITS, TOKENS, ROWS, DEPTH, SPLITS, UNROLL, EARLY, FOURS,
        PAIRS,
    )  # fmt: skip
    tile = tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
    total, last = joined(total, sums, arrived, tile, num_tokens - first, TOKENS, ROWS, SPLITS)
    if last:
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        token = first + tl.arange(0, TOKENS)
        to = output + token.to(tl.int64)[None, :] * OUT + row[:, None]
        written = (row < OUT)[:, None] & (token < num_tokens)[None, :]
        tl.store(to, total.to(output.dtype.element_ty), mask=written)


@triton.jit(do_not_specialize=("first",))
def unpack(
    words,
    factors,
    output,
    first,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    GROUP: tl.constexpr,
    BITS: tl.constexpr,
    DEPTH: tl.constexpr,
    FOURS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """UNIT rows, DEPTH numbers of each, as dense numbers that are rounded once.

    `output` is [rows, IN], those from `first` times UNIT on.
    """
    WIDE: tl.constexpr = output.dtype.element_ty == tl.bfloat16
    SIZE: tl.constexpr = UNIT * DEPTH * BITS // 32
    TILES: tl.constexpr = (IN + DEPTH - 1) // DEPTH
    step = tl.program_id(1)
    unit = first + tl.program_id(0)
    row = unit * UNIT + tl.arange(0, UNIT)
    at = (unit.to(tl.int64) * TILES + step) * SIZE
    packed = tl.load(words + at + tl.arange(0, SIZE)[None, :])
    factor = tl.load(factors + (step * DEPTH // GROUP) * ((OUT + UNIT - 1) // UNIT * UNIT) + row)
    numbers = _numbers(packed, factor, WIDE, BITS, UNIT, DEPTH, FOURS, PAIRS)
    dense = numbers.to(tl.float32) * _scale(factor)[:, None]
    column = step * DEPTH + tl.arange(0, DEPTH)
    to = output + (row - first * UNIT).to(tl.int64)[:, None] * IN + column[None, :]
    tl.store(
        to, dense.to(output.dtype.element_ty), mask=(row < OUT)[:, None] & (column < IN)[None, :]
    )


@triton.jit
def products(
    inputs,
    known,
    words,
    factors,
    row_tile,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    GROUP: tl.constexpr,
    BITS: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    SPLITS: tl.constexpr,
    UNROLL: tl.constexpr,
    EARLY: tl.constexpr,
    FOURS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """Products of a tile's rows with some tokens, over this program's part of their numbers.

    `inputs` is [1, TOKENS], where tokens begin, and `known`, which of them there are.
    """
    WIDE: tl.constexpr = inputs.dtype.element_ty == tl.bfloat16
    SIZE: tl.constexpr = UNIT * DEPTH * BITS // 32  # words of UNIT rows
    TILES: tl.constexpr = (IN + DEPTH - 1) // DEPTH
    STEPS: tl.constexpr = (TILES + SPLITS - 1) // SPLITS
    EVEN: tl.constexpr = IN == STEPS * DEPTH * SPLITS
    # Units past the end are the last one again: no mask, and nothing of them is written.
    LAST: tl.constexpr = (OUT + UNIT - 1) // UNIT * UNIT - 1
    row = tl.minimum(row_tile * ROWS + tl.arange(0, ROWS), LAST)
    unit = row_tile * (ROWS // UNIT) + tl.arange(0, ROWS // UNIT)
    own = words + tl.minimum(unit, LAST // UNIT).to(tl.int64)[:, None] * (TILES * SIZE)
    begin = tl.program_id(1) * STEPS
    if EARLY:
        gdc_launch_dependents()
        line = begin * SIZE + tl.arange(0, _AHEAD * UNROLL * SIZE // _LINE) * _LINE
        ask(own + tl.minimum(line, TILES * SIZE - 1)[None, :])
        gdc_wait()
    word = tl.arange(0, SIZE)[None, :]
    total = tl.zeros([ROWS, TOKENS], tl.float32)
    for step in tl.range(STEPS, loop_unroll_factor=UNROLL):
        tile = begin + step
        at = tile * DEPTH + tl.arange(0, DEPTH)
        if EVEN:
            right = tl.load(inputs + at[:, None], mask=known, other=0.0)
        else:  # past the end the last tile meets zeros
            right = tl.load(inputs + at[:, None], mask=known & (at < IN)[:, None], other=0.0)
            tile = tl.minimum(tile, TILES - 1)
        packed = tl.load(own + tile * SIZE + word, eviction_policy="evict_first")
        factor = factors + (tile * DEPTH // GROUP) * (LAST + 1) + row
        # Twice: with fewer numbers than threads the compiler would load them again for the scale,
        # and wait for that in every step.
        zero, scale = tl.split(tl.load(factor[:, None].broadcast_to(ROWS, 2)))
        left = _numbers(packed, zero, WIDE, BITS, ROWS, DEPTH, FOURS, PAIRS)
        total += tl.dot(left, right) * _scale(scale)[:, None]
    return total


@triton.jit
def _numbers(
    words,
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
    """
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
    low, high = _halves(_less(pairs, zero, WIDE, PAIRS), WIDE)
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
        found = _less(seven, _marked(words, 0x00800080, 0x43004300, PAIRS), WIDE, PAIRS)
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
def _less(pairs, others, WIDE: tl.constexpr, PAIRS: tl.constexpr):
    """Pairs of numbers of 16 bits less others, two at once: but Triton's interpreter cannot."""
    if PAIRS:
        LESS: tl.constexpr = _LESS_WIDE if WIDE else _LESS_NARROW
        found = tl.inline_asm_elementwise(
            LESS, "=r,r,r", [pairs, others], dtype=tl.uint32, is_pure=True, pack=1
        )
    else:
        KIND: tl.constexpr = tl.bfloat16 if WIDE else tl.float16
        low, high = _halves(pairs, WIDE)
        other_low, other_high = _halves(others, WIDE)
        low = (low.to(tl.float32) - other_low.to(tl.float32)).to(KIND)
        high = (high.to(tl.float32) - other_high.to(tl.float32)).to(KIND)
        high = high.to(tl.uint16, bitcast=True).to(tl.uint32) << 16
        found = low.to(tl.uint16, bitcast=True).to(tl.uint32) | high
    return found


@triton.jit
def _halves(pairs, WIDE: tl.constexpr):
    """The first numbers of pairs, and the second."""
    KIND: tl.constexpr = tl.bfloat16 if WIDE else tl.float16
    low, high = pairs.to(tl.uint16), (pairs >> 16).to(tl.uint16)
    return low.to(KIND, bitcast=True), high.to(KIND, bitcast=True)


@triton.jit
def _scale(factor):
    return (factor & (-1 - ZEROS)).to(tl.float32, bitcast=True)
