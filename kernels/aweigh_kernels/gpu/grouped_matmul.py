"""See `grouped_matmul`: products whose tiles have tokens of one expert each, and its matrix.

A tile of tokens is what the pairs in its list are; the rest is what products with one matrix do.
Tiles that nobody has end at once: how many there are is known on the device alone.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from aweigh_kernels.gpu.byte_matmul import products as byte_products
from aweigh_kernels.gpu.byte_matmul import scaled
from aweigh_kernels.gpu.int_matmul import products as int_products
from aweigh_kernels.gpu.skinny_matmul import joined
from aweigh_kernels.gpu.skinny_matmul import products as dense_products

_BAND = tl.constexpr(8)  # tiles of rows


@triton.jit(do_not_specialize=("num_pairs", "num_tiles"))
def multiply_dense(
    x,
    weight,
    output,
    sums,
    arrived,
    experts,
    pairs,
    num_pairs,
    num_tiles,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    EACH: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    SPLITS: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Some rows of an expert's dense matrix, some of their numbers, and some of its tokens."""
    row_tile, tile, expert = _tile(experts, num_tiles, (OUT + ROWS - 1) // ROWS, EARLY)
    if expert < 0:
        return
    pair = tl.load(pairs + tile * TOKENS + tl.arange(0, TOKENS))[None, :]
    known = pair < num_pairs
    row = row_tile * ROWS + tl.arange(0, ROWS)
    total = dense_products(
        x + (pair // EACH).to(tl.int64) * IN, known, weight + expert * (OUT * IN),
        tl.minimum(row, OUT - 1), IN, TOKENS, ROWS, DEPTH, SPLITS, 0, False,
    )  # fmt: skip
    count = tl.sum(known.to(tl.int32))
    total, last = joined(total, sums, arrived, tl.program_id(0), count, TOKENS, ROWS, SPLITS)
    if last:
        _write(output, total, row[:, None], pair, num_pairs, OUT)


@triton.jit(do_not_specialize=("num_pairs", "num_tiles"))
def multiply_ints(
    x,
    words,
    factors,
    output,
    sums,
    arrived,
    experts,
    pairs,
    num_pairs,
    num_tiles,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    WORDS: tl.constexpr,
    FACTORS: tl.constexpr,
    GROUP: tl.constexpr,
    BITS: tl.constexpr,
    EACH: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    SPLITS: tl.constexpr,
    UNROLL: tl.constexpr,
    EARLY: tl.constexpr,
    FOURS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """The same with packed integers, of which a matrix has so many words and factors."""
    row_tile, tile, expert = _tile(experts, num_tiles, (OUT + ROWS - 1) // ROWS, EARLY)
    if expert < 0:
        return
    pair = tl.load(pairs + tile * TOKENS + tl.arange(0, TOKENS))[None, :]
    known = pair < num_pairs
    total = int_products(
        x + (pair // EACH).to(tl.int64) * IN, known, words + expert * WORDS,
        factors + expert * FACTORS, row_tile, OUT, IN, GROUP, BITS, TOKENS, ROWS, DEPTH, SPLITS,
        UNROLL, False, FOURS, PAIRS,
    )  # fmt: skip
    count = tl.sum(known.to(tl.int32))
    total, last = joined(total, sums, arrived, tl.program_id(0), count, TOKENS, ROWS, SPLITS)
    if last:
        row = row_tile * ROWS + tl.arange(0, ROWS)
        _write(output, total, row[:, None], pair, num_pairs, OUT)


@triton.jit(do_not_specialize=("num_pairs", "num_tiles"))
def multiply_bytes(
    x,
    weight,
    x_scale,
    x_zero,
    scale,
    row_sums,
    output,
    sums,
    arrived,
    experts,
    pairs,
    num_pairs,
    num_tiles,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    WIDTH: tl.constexpr,
    SCALES: tl.constexpr,
    EACH: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    SPLITS: tl.constexpr,
    SCALED: tl.constexpr,
    GROUPED: tl.constexpr,
    BLOCKS: tl.constexpr,
    ZERO: tl.constexpr,
    CODES: tl.constexpr,
    HALVES: tl.constexpr,
    SHORT: tl.constexpr,
    EARLY: tl.constexpr,
):
    """The same with 8 bits, of which a matrix has so many scales."""
    row_tile, tile, expert = _tile(experts, num_tiles, (OUT + ROWS - 1) // ROWS, EARLY)
    if expert < 0:
        return
    pair = tl.load(pairs + tile * TOKENS + tl.arange(0, TOKENS))[None, :]
    num_tokens, token = num_pairs // EACH, pair // EACH  # of what is no pair: past the last one
    row = (row_tile * ROWS + tl.arange(0, ROWS))[:, None]
    own = weight + expert * (OUT * WIDTH) + tl.minimum(row, OUT - 1).to(tl.int64) * WIDTH
    scale += expert * SCALES
    total = byte_products(
        x, own, x_scale, scale, row_tile * ROWS, token, num_tokens, sums.dtype.element_ty, IN,
        WIDTH, TOKENS, ROWS, DEPTH, SPLITS, GROUPED, BLOCKS, CODES, HALVES, SHORT,
    )  # fmt: skip
    count = tl.sum((pair < num_pairs).to(tl.int32))
    total, last = joined(total, sums, arrived, tl.program_id(0), count, TOKENS, ROWS, SPLITS)
    if last:
        found = scaled(
            total, x_scale, x_zero, scale, row_sums + expert * OUT, row, token, num_tokens, OUT,
            SCALED, BLOCKS, ZERO,
        )  # fmt: skip
        _write(output, found, row, pair, num_pairs, OUT)


@triton.jit
def _tile(experts, num_tiles, ROW_TILES: tl.constexpr, EARLY: tl.constexpr):
    """Which rows a program has, which pairs, and whose.

    Bands of rows go over all tiles of pairs: programs at work together need few rows, and few of x.
    Until what was launched before has been written nothing is known, not even what to ask for.
    """
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    band = tl.program_id(0) // (_BAND * num_tiles)
    height = tl.minimum(ROW_TILES - band * _BAND, _BAND)
    inside = tl.program_id(0) % (_BAND * num_tiles)
    tile = inside // height
    return band * _BAND + inside % height, tile, tl.load(experts + tile).to(tl.int64)


@triton.jit
def _write(output, found, row, pair, num_pairs, OUT: tl.constexpr):
    to = output + pair.to(tl.int64) * OUT + row
    tl.store(to, found.to(output.dtype.element_ty), mask=(row < OUT) & (pair < num_pairs))
