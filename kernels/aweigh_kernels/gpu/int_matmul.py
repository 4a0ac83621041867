"""See `int_matmul`. Integers become numbers in the very registers that tensor cores take them from.

The tensor core multiplies small integers, exactly; sums of a group meet its scale, fp32.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from aweigh_kernels.gpu.ahead import ask
from aweigh_kernels.gpu.integers import UNIT, ZEROS, numbers
from aweigh_kernels.gpu.skinny_matmul import joined

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
        to = output + (first + column).to(tl.int64) * OUT + row[:, None]
        written = (row < OUT)[:, None] & (first + column < num_tokens)
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
    MAIN: tl.constexpr = SIZE - SIZE % (UNIT * DEPTH // 16)  # without third ones
    TILES: tl.constexpr = (IN + DEPTH - 1) // DEPTH
    step = tl.program_id(1)
    unit = first + tl.program_id(0)
    row = unit * UNIT + tl.arange(0, UNIT)
    at = (unit.to(tl.int64) * TILES + step) * SIZE
    packed = tl.load(words + at + tl.arange(0, MAIN)[None, :])
    thirds = packed
    if BITS == 3:
        thirds = tl.load(words + at + MAIN + tl.arange(0, MAIN // 2)[None, :])
    factor = tl.load(factors + (step * DEPTH // GROUP) * ((OUT + UNIT - 1) // UNIT * UNIT) + row)
    found = numbers(packed, thirds, factor, WIDE, BITS, UNIT, DEPTH, FOURS, PAIRS)
    dense = found.to(tl.float32) * _scale(factor)[:, None]
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
    MAIN: tl.constexpr = SIZE - SIZE % (UNIT * DEPTH // 16)  # without third ones
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
        line = begin * SIZE + tl.arange(0, _AHEAD * UNROLL * MAIN // _LINE) * _LINE
        ask(own + tl.minimum(line, TILES * SIZE - 1)[None, :])
        gdc_wait()
    word = tl.arange(0, MAIN)[None, :]
    third = MAIN + tl.arange(0, MAIN // 2)[None, :]
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
        thirds = packed
        if BITS == 3:
            thirds = tl.load(own + tile * SIZE + third, eviction_policy="evict_first")
        factor = factors + (tile * DEPTH // GROUP) * (LAST + 1) + row
        # Twice: with fewer numbers than threads the compiler would load them again for the scale,
        # and wait for that in every step.
        zero, scale = tl.split(tl.load(factor[:, None].broadcast_to(ROWS, 2)))
        left = numbers(packed, thirds, zero, WIDE, BITS, ROWS, DEPTH, FOURS, PAIRS)
        total += tl.dot(left, right) * _scale(scale)[:, None]
    return total


@triton.jit
def _scale(factor):
    return (factor & (-1 - ZEROS)).to(tl.float32, bitcast=True)
