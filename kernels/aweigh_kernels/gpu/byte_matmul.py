"""See `byte_matmul`.

For few tokens rows of the weight are the left matrix, as in `skinny_matmul`, whose way of sharing
rows it has. For many, tokens are, and tiles come by descriptors. Tensor cores up to Hopper's add
E4M3 and E5M2 with about 14 bits (SHORT): what they add at once is one tile's depth, and from tile
to tile sums are fp32. Integers are added as they are; where tensor cores are slow at that (HALVES)
they are multiplied as fp16, and a tile's sum is exact. Scales of blocks and groups come one tile
before they are needed.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from aweigh_kernels.gpu.ahead import ask
from aweigh_kernels.gpu.rounding import GROUP
from aweigh_kernels.gpu.skinny_matmul import joined

_LINE = tl.constexpr(128)  # bytes that the second-level cache asks memory for


@triton.jit(do_not_specialize=("num_tokens",))
def multiply_few(
    x,
    weight,
    x_scale,
    x_zero,
    scale,
    row_sums,
    output,
    sums,
    arrived,
    num_tokens,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    SPLITS: tl.constexpr,
    AHEAD: tl.constexpr,
    SCALED: tl.constexpr,
    GROUPED: tl.constexpr,
    BLOCKS: tl.constexpr,
    ZERO: tl.constexpr,
    CODES: tl.constexpr,
    HALVES: tl.constexpr,
    SHORT: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Some rows of the weight times some tokens, over some of their numbers."""
    # Tokens change first: programs at work together read the same rows.
    tiles = (num_tokens + TOKENS - 1) // TOKENS
    first_row = tl.program_id(0) // tiles * ROWS
    first_token = tl.program_id(0) % tiles * TOKENS
    row = (first_row + tl.arange(0, ROWS))[:, None]
    token = (first_token + tl.arange(0, TOKENS))[None, :]
    # Rows past the end are the last one again: no mask, and nothing of them is written.
    total, last = joined_products(
        x, weight, x_scale, scale, sums, arrived, tl.minimum(row, OUT - 1), first_row, token,
        first_token, num_tokens, IN, WIDTH, TOKENS, ROWS, DEPTH, SPLITS, AHEAD, GROUPED, BLOCKS,
        CODES, HALVES, SHORT, EARLY,
    )  # fmt: skip
    if last:
        found = scaled(
            total, x_scale, x_zero, scale, row_sums, row, token, num_tokens, OUT, SCALED, BLOCKS,
            ZERO,
        )  # fmt: skip
        to = output + token.to(tl.int64) * OUT + row
        written = (row < OUT) & (token < num_tokens)
        tl.store(to, found.to(output.dtype.element_ty), mask=written)


@triton.jit(do_not_specialize=("num_tokens",))
def multiply_many(
    x,
    weight,
    x_scale,
    x_zero,
    scale,
    row_sums,
    output,
    num_tokens,
    OUT: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    BAND: tl.constexpr,
    SCALED: tl.constexpr,
    GROUPED: tl.constexpr,
    BLOCKS: tl.constexpr,
    ZERO: tl.constexpr,
    SHORT: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Some tokens times some rows of the weight; both are 8 bits."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    tiles = (num_tokens + TOKENS - 1) // TOKENS
    first_token, first_row = _place(tl.program_id(0), tiles, (OUT + ROWS - 1) // ROWS, BAND)
    first_token, first_row = first_token * TOKENS, first_row * ROWS
    token = (first_token + tl.arange(0, TOKENS))[:, None]
    row = (first_row + tl.arange(0, ROWS))[None, :]
    factor = _factor(x_scale, scale, 0, first_row, token, num_tokens, WIDTH, GROUPED, BLOCKS)
    WHOLE: tl.constexpr = x.dtype.is_int()
    total = tl.zeros([TOKENS, ROWS], tl.int32 if WHOLE else tl.float32)
    for step in range(WIDTH // DEPTH):
        left = x.load([first_token, step * DEPTH])
        right = weight.load([first_row, step * DEPTH]).T
        if GROUPED or BLOCKS:
            coming = _factor(
                x_scale, scale, step + 1, first_row, token, num_tokens, WIDTH, GROUPED, BLOCKS
            )
            total += tl.dot(left, right) * factor
            factor = coming
        elif SHORT and not WHOLE:
            total += tl.dot(left, right, max_num_imprecise_acc=DEPTH)
        else:
            total = tl.dot(left, right, total, out_dtype=total.dtype)
    found = scaled(
        total, x_scale, x_zero, scale, row_sums, row, token, num_tokens, OUT, SCALED, BLOCKS, ZERO
    )
    to = output + token.to(tl.int64) * OUT + row
    written = (row < OUT) & (token < num_tokens)
    tl.store(to, found.to(output.dtype.element_ty), mask=written)


@triton.jit
def widen(
    weight,
    scale,
    output,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCKS: tl.constexpr,
    CODES: tl.constexpr,
    EARLY: tl.constexpr,
):
    """A piece of a row of the weight, for a product of 16 bits."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0)
    column = tl.program_id(1) * PIECE + tl.arange(0, PIECE)
    inside = column < SIZE
    numbers = tl.load(weight + row.to(tl.int64) * WIDTH + column, mask=inside, other=0.0)
    if CODES:
        numbers = _of_codes(numbers)
    if BLOCKS:
        place = row // GROUP * (WIDTH // GROUP) + column // GROUP
        factor = tl.load(scale + place, mask=inside, other=0.0)
    else:
        factor = tl.load(scale + row)
    found = numbers.to(tl.float16).to(tl.float32) * factor
    to = output + row.to(tl.int64) * SIZE + column
    tl.store(to, found.to(output.dtype.element_ty), mask=inside)


@triton.jit
def joined_products(
    x,
    weight,
    x_scale,
    scale,
    sums,
    arrived,
    row,
    first_row,
    token,
    first_token,
    num_tokens,
    IN: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    SPLITS: tl.constexpr,
    AHEAD: tl.constexpr,
    GROUPED: tl.constexpr,
    BLOCKS: tl.constexpr,
    CODES: tl.constexpr,
    HALVES: tl.constexpr,
    SHORT: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Products of some rows, [ROWS, 1], of all programs that share them; whether this has them."""
    STEPS: tl.constexpr = (WIDTH + DEPTH * SPLITS - 1) // (DEPTH * SPLITS)
    EVEN: tl.constexpr = WIDTH == STEPS * DEPTH * SPLITS
    own = weight + row.to(tl.int64) * WIDTH
    if EARLY:
        gdc_launch_dependents()
        if EVEN and AHEAD > 0 and AHEAD <= STEPS * DEPTH:
            begin = tl.program_id(1) * (STEPS * DEPTH)
            ask(own + begin + (tl.arange(0, AHEAD // _LINE) * _LINE)[None, :])
        gdc_wait()
    total = products(
        x, own, x_scale, scale, first_row, token, num_tokens, sums.dtype.element_ty, IN, WIDTH,
        TOKENS, ROWS, DEPTH, SPLITS, GROUPED, BLOCKS, CODES, HALVES, SHORT,
    )  # fmt: skip
    return joined(
        total, sums, arrived, tl.program_id(0), num_tokens - first_token, TOKENS, ROWS, SPLITS
    )


@triton.jit
def products(
    x,
    own,
    x_scale,
    scale,
    first_row,
    token,
    num_tokens,
    SUMS: tl.constexpr,
    IN: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    SPLITS: tl.constexpr,
    GROUPED: tl.constexpr,
    BLOCKS: tl.constexpr,
    CODES: tl.constexpr,
    HALVES: tl.constexpr,
    SHORT: tl.constexpr,
):
    """Products of some rows with some tokens, over this program's part of their numbers.

    `own` is [ROWS, 1], where rows begin; `token` [1, TOKENS], none from `num_tokens` on.
    """
    STEPS: tl.constexpr = (WIDTH + DEPTH * SPLITS - 1) // (DEPTH * SPLITS)
    EVEN: tl.constexpr = WIDTH == STEPS * DEPTH * SPLITS
    KIND: tl.constexpr = tl.float16 if HALVES else x.dtype.element_ty
    begin = tl.program_id(1) * (STEPS * DEPTH)
    inputs = x + token.to(tl.int64) * IN
    known = token < num_tokens
    factor = _factor(
        x_scale, scale, begin // GROUP, first_row, token, num_tokens, WIDTH, GROUPED, BLOCKS
    )
    # 1, which the compiler does not know: what it added to the sum before it would let go on, while
    # the next tile is put into the registers that it is still read from.
    once = (num_tokens > 0).to(tl.float32)
    total = tl.zeros([ROWS, TOKENS], SUMS)
    for step in range(STEPS):
        at = begin + step * DEPTH + tl.arange(0, DEPTH)
        left = _weights(own, at, KIND, WIDTH, EVEN, CODES)
        right = _inputs(inputs, at, known, IN, EVEN and IN == WIDTH)
        if GROUPED or BLOCKS:
            behind = begin // GROUP + step + 1
            coming = _factor(
                x_scale, scale, behind, first_row, token, num_tokens, WIDTH, GROUPED, BLOCKS
            )
            total += tl.dot(left, right) * factor
            factor = coming
        elif HALVES:  # a sum is DEPTH · 128 · 128 at most: fp32 has room for four times as much
            total += tl.dot(left, _widened(right, KIND)).to(tl.int32)
        elif SHORT and left.dtype.is_fp8():
            # Told nothing of it, the compiler lets Ada's tensor cores add to the sum before.
            total += tl.dot(left, right, max_num_imprecise_acc=DEPTH)
        elif KIND.is_int() or left.dtype.is_fp8():
            total = tl.dot(left, right, total, out_dtype=total.dtype)
        else:
            total += tl.dot(left, right) * once
    return total


@triton.jit
def _weights(
    own, at, kind: tl.constexpr, WIDTH: tl.constexpr, EVEN: tl.constexpr, CODES: tl.constexpr
):
    """A tile of the weight, as wide as the numbers it meets."""
    if EVEN:
        found = tl.load(own + at[None, :], eviction_policy="evict_first")
    else:
        found = tl.load(own + at[None, :], mask=(at < WIDTH)[None, :], other=0.0)
    if CODES:
        found = _widened(_of_codes(found), kind)
    elif found.dtype.primitive_bitwidth < kind.primitive_bitwidth:
        found = _widened(found, kind)
    return found


@triton.jit
def _inputs(inputs, at, known, IN: tl.constexpr, WHOLE: tl.constexpr):
    """A tile of the activations."""
    there = known
    if not WHOLE:
        there = known & (at < IN)[:, None]
    return tl.load(inputs + at[:, None], mask=there, other=0.0)


@triton.jit
def _place(program, tiles, ROW_TILES: tl.constexpr, BAND: tl.constexpr):
    """Tiles of tokens and of rows: bands of so many tiles of tokens, so that programs at work
    together need few of both."""
    band = program // (BAND * ROW_TILES)
    height = tl.minimum(tiles - band * BAND, BAND)
    inside = program % (BAND * ROW_TILES)
    return band * BAND + inside % height, inside // height


@triton.jit
def _factor(
    x_scale,
    scale,
    group,
    first_row,
    token,
    num_tokens,
    WIDTH: tl.constexpr,
    GROUPED: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Of one group of columns; 0 behind the last. A program's rows lie in one block."""
    COUNT: tl.constexpr = WIDTH // GROUP
    factor = 1.0
    if BLOCKS:
        place = first_row // GROUP * COUNT + group
        factor = tl.load(scale + place, mask=group < COUNT, other=0.0)
    if GROUPED:
        known = (token < num_tokens) & (group < COUNT)
        of_token = x_scale + tl.cast(group, tl.int64) * num_tokens + token
        factor *= tl.load(of_token, mask=known, other=0.0)
    return factor


@triton.jit
def scaled(
    total,
    x_scale,
    x_zero,
    scale,
    row_sums,
    row,
    token,
    num_tokens,
    OUT: tl.constexpr,
    SCALED: tl.constexpr,
    BLOCKS: tl.constexpr,
    ZERO: tl.constexpr,
):
    """Sums less what zero points add, times what scales there still are, fp32."""
    known = token < num_tokens
    if ZERO:
        zero = tl.load(x_zero + token, mask=known, other=0)
        total -= zero * tl.load(row_sums + row, mask=row < OUT, other=0)
    found = total.to(tl.float32)
    if SCALED:
        found *= tl.load(x_scale + token, mask=known, other=0.0)
    if not BLOCKS:
        found *= tl.load(scale + row, mask=row < OUT, other=0.0)
    return found


@triton.jit
def _widened(numbers, kind: tl.constexpr):
    """By way of fp16, and of fp32 to bf16: of these steps none is slow.

    Integers become the last bits of 1024 there, with 128 more than they are.
    """
    if numbers.dtype.is_int():
        bits = (numbers.to(tl.uint8, bitcast=True) ^ 0x80).to(tl.uint16) | 0x6400
        found = bits.to(tl.float16, bitcast=True) - 1152.0
    else:
        found = numbers.to(tl.float16)
    if kind == tl.bfloat16:
        found = found.to(tl.float32).to(kind)
    return found


@triton.jit
def _of_codes(codes):
    """E4M3 from its bytes, fp16: for tensor cores that do not know it."""
    code = codes.to(tl.uint16)
    bits = ((code & 0x80) << 8) | ((code & 0x7F) << 7)
    return bits.to(tl.float16, bitcast=True) * 256.0
