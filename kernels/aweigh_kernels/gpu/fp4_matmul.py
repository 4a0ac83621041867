"""See `fp4_matmul`. Codes become numbers in the very registers that tensor cores take them from.

A code's sign and its three other bits are moved to where 16 bits have the sign, the last bits of
the exponent and the first one of the fraction: that is the value times a power of two, 0 and 0.5
among them, which so become subnormal. One multiplication of pairs takes them to the group's scale.
Value and scale have two and four significant bits, so the product is exact. `fp4_packing` says
where bits are in a word.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from aweigh_kernels.gpu.ahead import ask
from aweigh_kernels.gpu.integers import UNIT, halves
from aweigh_kernels.gpu.skinny_matmul import joined

GROUP = tl.constexpr(16)  # columns that share a scale
DEPTH = tl.constexpr(128)  # columns of a tile
# Of each of four pairs in a word: rotations to the left, and the bits that each puts into place, in
# bf16 (bits 15, 8, 7 and 6 of a half) and in fp16 (15, 11, 10 and 9). A search has found no cheaper
# way to fill all bits.
WIDE_MOVES = tl.constexpr(
    ((6, 0x81C0, 0, 0), (12, 0x81C0, 0, 0), (2, 0x81C0, 0, 0), (0, 0x8180, 24, 0x0040))
)
NARROW_MOVES = tl.constexpr(
    ((9, 0x8E00, 0, 0), (6, 0x8E00, 0, 0), (2, 0x8600, 0, 0x0800), (0, 0x8400, 13, 0x0A00))
)
LEFT = tl.constexpr(128.0)  # products are smaller by that much than value times scale
_WORDS = tl.constexpr(UNIT.value * DEPTH.value // 8)  # of UNIT rows
_SCALES = tl.constexpr(UNIT.value * DEPTH.value // 64)  # words with four each
_TIMES_NARROW = tl.constexpr("mul.f16x2 $0, $1, $2;")
_TIMES_WIDE = tl.constexpr(  # there is no such product before Hopper; less 0 changes no sign
    "{ .reg .b32 none; mov.b32 none, 0x80008000; fma.rn.bf16x2 $0, $1, $2, none; }"
)
_AHEAD = tl.constexpr(4)  # tiles that are asked for while the kernel before ends
_LINE = tl.constexpr(32)  # words that the second-level cache asks memory for


@triton.jit(do_not_specialize=("num_tokens",))
def multiply(
    x,
    words,
    scales,
    factors,
    output,
    sums,
    arrived,
    num_tokens,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    SPLITS: tl.constexpr,
    EARLY: tl.constexpr,
    FOURS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """Some rows of the weight, some of their numbers, and some tokens."""
    first = tl.program_id(2) * TOKENS
    total = _sums(
        x + first.to(tl.int64) * IN, words, scales, num_tokens - first,
        OUT, IN, TOKENS, ROWS, SPLITS, EARLY, FOURS, PAIRS,
    )  # fmt: skip
    tile = tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
    total, last = joined(total, sums, arrived, tile, num_tokens - first, TOKENS, ROWS, SPLITS)
    if last:
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        token = first + tl.arange(0, TOKENS)
        found = total * tl.load(factors + row, mask=row < OUT, other=0.0)[:, None]
        to = output + token.to(tl.int64)[None, :] * OUT + row[:, None]
        written = (row < OUT)[:, None] & (token < num_tokens)[None, :]
        tl.store(to, found.to(output.dtype.element_ty), mask=written)


@triton.jit(do_not_specialize=("first",))
def unpack(
    words,
    scales,
    factors,
    output,
    first,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    FOURS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """UNIT rows, DEPTH numbers of each, as dense numbers that are rounded once.

    `output` is [rows, IN], those from `first` times UNIT on.
    """
    WIDE: tl.constexpr = output.dtype.element_ty == tl.bfloat16
    TILES: tl.constexpr = (IN + DEPTH - 1) // DEPTH
    unit = first + tl.program_id(0)
    tile = unit.to(tl.int64) * TILES + tl.program_id(1)
    packed = tl.load(words + tile * _WORDS + tl.arange(0, _WORDS)[None, :])
    scale = tl.load(scales + tile * _SCALES + tl.arange(0, _SCALES)[None, :])
    row = unit * UNIT + tl.arange(0, UNIT)
    factor = tl.load(factors + row, mask=row < OUT, other=0.0)
    dense = _numbers(packed, scale, WIDE, UNIT, FOURS, PAIRS).to(tl.float32) * factor[:, None]
    column = tl.program_id(1) * DEPTH + tl.arange(0, DEPTH)
    to = output + (row - first * UNIT).to(tl.int64)[:, None] * IN + column[None, :]
    tl.store(
        to, dense.to(output.dtype.element_ty), mask=(row < OUT)[:, None] & (column < IN)[None, :]
    )


@triton.jit
def _sums(
    x,
    words,
    scales,
    num_tokens,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    SPLITS: tl.constexpr,
    EARLY: tl.constexpr,
    FOURS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """Products of this program's rows with some tokens, over its part of their numbers."""
    WIDE: tl.constexpr = x.dtype.element_ty == tl.bfloat16
    TILES: tl.constexpr = (IN + DEPTH - 1) // DEPTH
    STEPS: tl.constexpr = (TILES + SPLITS - 1) // SPLITS
    EVEN: tl.constexpr = IN == STEPS * DEPTH * SPLITS
    # Units past the end are the last one again: no mask, and nothing of them is written.
    LAST: tl.constexpr = (OUT + UNIT - 1) // UNIT - 1
    unit = tl.program_id(0) * (ROWS // UNIT) + tl.arange(0, ROWS // UNIT)
    unit = tl.minimum(unit, LAST).to(tl.int64)[:, None] * TILES
    own, of_groups = words + unit * _WORDS, scales + unit * _SCALES
    begin = tl.program_id(1) * STEPS
    if EARLY:
        gdc_launch_dependents()
        line = begin * _WORDS + tl.arange(0, _AHEAD * _WORDS // _LINE) * _LINE
        ask(own + tl.minimum(line, TILES * _WORDS - 1)[None, :])
        line = begin * _SCALES + tl.arange(0, _AHEAD * _SCALES // _LINE) * _LINE
        ask(of_groups + tl.minimum(line, TILES * _SCALES - 1)[None, :])
        gdc_wait()
    token = tl.arange(0, TOKENS)
    known = (token < num_tokens)[None, :]
    inputs = x + token[None, :] * IN
    word, group = tl.arange(0, _WORDS)[None, :], tl.arange(0, _SCALES)[None, :]
    # 1, which the compiler does not know: what it added to the sum before it would let go on, while
    # the next tile is put into the registers that it is still read from.
    once = (num_tokens > 0).to(tl.float32)
    total = tl.zeros([ROWS, TOKENS], tl.float32)
    for step in range(STEPS):
        tile = begin + step
        at = tile * DEPTH + tl.arange(0, DEPTH)
        if EVEN:
            right = tl.load(inputs + at[:, None], mask=known, other=0.0)
        else:  # past the end the last tile meets zeros
            right = tl.load(inputs + at[:, None], mask=known & (at < IN)[:, None], other=0.0)
            tile = tl.minimum(tile, TILES - 1)
        packed = tl.load(own + tile * _WORDS + word, eviction_policy="evict_first")
        scale = tl.load(of_groups + tile * _SCALES + group, eviction_policy="evict_first")
        left = _numbers(packed, scale, WIDE, ROWS, FOURS, PAIRS)
        total += tl.dot(left, right) * once
    return total


@triton.jit
def _numbers(
    words, scales, WIDE: tl.constexpr, ROWS: tl.constexpr, FOURS: tl.constexpr, PAIRS: tl.constexpr
):
    """Values times their groups' scales, less LEFT times: [ROWS, DEPTH], exact.

    In bf16 if WIDE, else in fp16. A word has what a lane gives for 16 columns, and a word of scales
    those of four times 16 columns.
    """
    words = words.to(tl.uint32, bitcast=True).reshape(ROWS // UNIT, 2, 4, 8, 4, 4)
    upper = tl.join(_moved(words, 0, WIDE), _moved(words, 2, WIDE))
    lower = tl.join(_moved(words, 1, WIDE), _moved(words, 3, WIDE))
    pairs = tl.join(upper, lower)
    # Units, 64 columns, warps, rows, pairs of columns, 16 columns, other columns, other 8 rows.
    of_groups = _of_groups(scales, WIDE, ROWS)[:, :, :, :, None, :, None, :]
    scaled = _times(pairs, of_groups.broadcast_to(pairs.shape), WIDE, PAIRS)
    low, high = halves(scaled, WIDE)
    found = tl.join(low, high)
    if FOURS:
        found = found.permute(0, 2, 7, 3, 1, 5, 4, 6, 8)
    else:
        found = found.permute(0, 2, 7, 3, 1, 5, 6, 4, 8)
    return found.reshape(ROWS, DEPTH)


@triton.jit
def _moved(words, PAIR: tl.constexpr, WIDE: tl.constexpr):
    """The bits of one pair in their places, all others 0."""
    MOVES: tl.constexpr = WIDE_MOVES if WIDE else NARROW_MOVES
    MOVE: tl.constexpr = MOVES[PAIR]
    found = _rotated(words, MOVE[0]) & (MOVE[1] * 0x00010001)
    if MOVE[3] > 0:
        found |= _rotated(words, MOVE[2]) & (MOVE[3] * 0x00010001)
    return found


@triton.jit
def _rotated(words, BY: tl.constexpr):
    """To the left."""
    found = words
    if BY > 0:
        found = (words << BY) | (words >> (32 - BY))
    return found


@triton.jit
def _of_groups(scales, WIDE: tl.constexpr, ROWS: tl.constexpr):
    """Scales as pairs of the same number: [units, 2, warps, rows, 4, 2] for 16 columns each."""
    four = scales.to(tl.uint32, bitcast=True).reshape(ROWS // UNIT, 4, 8, 2, 2)
    four = four.permute(0, 3, 1, 2, 4)
    even = tl.join(_pair(four, 0, WIDE), _pair(four, 2, WIDE))
    odd = tl.join(_pair(four, 1, WIDE), _pair(four, 3, WIDE))
    found = tl.join(even, odd)  # [units, 2, warps, rows, other 8 rows, 2, 2]
    return found.permute(0, 1, 2, 3, 5, 6, 4).reshape(ROWS // UNIT, 2, 4, 8, 4, 2)


@triton.jit
def _pair(four, WHICH: tl.constexpr, WIDE: tl.constexpr):
    """One of four, whose exponent `fp4_packing` has made one that fp16 has, and nearly bf16."""
    code = (four >> (8 * WHICH)) & 0xFF
    FACTOR: tl.constexpr = 0x00100010 if WIDE else 0x00800080
    LEAST: tl.constexpr = 0x70007000 if WIDE else 0
    return code * FACTOR + LEAST


@triton.jit
def _times(pairs, others, WIDE: tl.constexpr, PAIRS: tl.constexpr):
    """Products of pairs of numbers, two at once: but Triton's interpreter cannot."""
    if PAIRS:
        TIMES: tl.constexpr = _TIMES_WIDE if WIDE else _TIMES_NARROW
        found = tl.inline_asm_elementwise(
            TIMES, "=r,r,r", [pairs, others], dtype=tl.uint32, is_pure=True, pack=1
        )
    elif WIDE:
        low, high = (
            _product(pairs << 16, others << 16),
            _product(pairs & 0xFFFF0000, others & 0xFFFF0000),
        )
        found = (low >> 16) | (high & 0xFFFF0000)
    else:
        low, high = halves(pairs, WIDE)
        other_low, other_high = halves(others, WIDE)
        high = (high * other_high).to(tl.uint16, bitcast=True).to(tl.uint32) << 16
        found = (low * other_low).to(tl.uint16, bitcast=True).to(tl.uint32) | high
    return found


@triton.jit
def _product(one, other):
    """Of the bits of fp32 numbers."""
    found = one.to(tl.float32, bitcast=True) * other.to(tl.float32, bitcast=True)
    return found.to(tl.uint32, bitcast=True)
