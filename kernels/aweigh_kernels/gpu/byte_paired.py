"""See `byte_product`: the product of few tokens, and what follows it in a layer."""

import triton
import triton.language as tl

from aweigh_kernels.gpu.byte_matmul import joined_products, scaled
from aweigh_kernels.gpu.paired import gate_rows, head_rows, leave_gated, leave_turned
from aweigh_kernels.gpu.rounding import size_of


@triton.jit(do_not_specialize=("num_tokens",))
def multiply_few_gated(
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
    largest,
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
    GELU: tl.constexpr,
):
    """Some gates and what goes through them, and how large that is at most for each token.

    All tokens are one tile, and scales are those of rows.
    """
    row = gate_rows(tl.program_id(0), OUT, ROWS)[:, None]
    token = tl.arange(0, TOKENS)[None, :]
    total, last = joined_products(
        x, weight, x_scale, scale, sums, arrived, row, 0, token, 0, num_tokens, IN, WIDTH, TOKENS,
        ROWS, DEPTH, SPLITS, AHEAD, GROUPED, BLOCKS, CODES, HALVES, SHORT, EARLY,
    )  # fmt: skip
    if last:
        found = scaled(
            total, x_scale, x_zero, scale, row_sums, row, token, num_tokens, OUT, SCALED, BLOCKS,
            ZERO,
        )  # fmt: skip
        let_by = leave_gated(
            found, output, tl.program_id(0), num_tokens, OUT, ROWS, TOKENS, GELU
        )  # fmt: skip
        column = tl.arange(0, TOKENS)
        to = largest + column * tl.num_programs(0) + tl.program_id(0)
        tl.store(to, size_of(let_by.to(tl.float32), 0), mask=column < num_tokens)


@triton.jit(do_not_specialize=("num_tokens",))
def multiply_few_turned(
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
    cos,
    sin,
    kv,
    slots,
    key_scale,
    value_scale,
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
    SIZE: tl.constexpr,
    KV_HEADS: tl.constexpr,
    FP8: tl.constexpr,
):
    """Some pairs of numbers of one head.

    All tokens are one tile, and scales are those of rows.
    """
    row = head_rows(tl.program_id(0), ROWS, SIZE)[:, None]
    token = tl.arange(0, TOKENS)[None, :]
    total, last = joined_products(
        x, weight, x_scale, scale, sums, arrived, row, 0, token, 0, num_tokens, IN, WIDTH, TOKENS,
        ROWS, DEPTH, SPLITS, AHEAD, GROUPED, BLOCKS, CODES, HALVES, SHORT, EARLY,
    )  # fmt: skip
    if last:
        found = scaled(
            total, x_scale, x_zero, scale, row_sums, row, token, num_tokens, OUT, SCALED, BLOCKS,
            ZERO,
        )  # fmt: skip
        leave_turned(
            found, output, tl.program_id(0), num_tokens, cos, sin, kv, slots, key_scale,
            value_scale, OUT, ROWS, TOKENS, SIZE, KV_HEADS, FP8,
        )  # fmt: skip
