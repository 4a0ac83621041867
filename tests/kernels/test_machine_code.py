"""Reading machine code finds what is wrong in a kernel that was made wrong on purpose."""

import pytest
import triton
import triton.language as tl

from tests.kernels.machine_code import compiled


@triton.jit
def add_products(x, words, output, num_tokens, STEPS: tl.constexpr, AWAITED: tl.constexpr):
    """64 rows of integers, which become numbers in registers, times 16 tokens."""
    row, at, token = tl.arange(0, 64), tl.arange(0, 64), tl.arange(0, 16)
    once = (num_tokens > 0).to(tl.float32)  # 1, which the compiler does not know
    total = tl.zeros([64, 16], tl.float32)
    for step in range(STEPS):
        column = step * 64 + at
        left = tl.load(words + row[:, None] * (64 * STEPS) + column[None, :]).to(tl.bfloat16)
        right = tl.load(x + token[None, :] * (64 * STEPS) + column[:, None])
        if AWAITED:
            total += tl.dot(left, right) * once
        else:  # what adds to the sum before it goes on while `left` is overwritten
            total += tl.dot(left, right)
    tl.store(output + row[:, None] * 16 + token[None, :], total)


@pytest.mark.parametrize("awaited", [True, False])
def test_products_that_go_on_while_their_registers_are_overwritten_are_found(awaited: bool) -> None:
    types = {"x": "*bf16", "words": "*i8", "output": "*fp32", "num_tokens": "i32"}
    constants = {"STEPS": 64, "AWAITED": awaited}
    code = compiled(add_products, 90, types, constants, num_warps=4, num_stages=3)
    assert code.count("HGMMA")
    assert code.overwrites_operands() == (not awaited)
