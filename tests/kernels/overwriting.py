"""A GPU kernel that is made wrong on purpose, or not: products go on while operands change."""

import triton
import triton.language as tl


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
