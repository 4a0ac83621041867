"""See `gated`. A program has a piece of one row."""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def multiply_gated(
    gate_up,
    output,
    SIZE: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK: tl.constexpr,
    GELU: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One piece."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    row = (tl.program_id(0) // CHUNKS).to(tl.int64)
    column = tl.program_id(0) % CHUNKS * BLOCK + tl.arange(0, BLOCK)
    inside = column < SIZE
    product = gated_numbers(gate_up + row * (2 * SIZE) + column, inside, SIZE, GELU)
    tl.store(output + row * SIZE + column, product, mask=inside)


@triton.jit
def gated_numbers(at, inside, SIZE: tl.constexpr, GELU: tl.constexpr):
    """Of gates, and of what they let by, `SIZE` numbers behind."""
    gate = tl.load(at, mask=inside, other=0.0)
    up = tl.load(at + SIZE, mask=inside, other=0.0)
    return let_by(gate, up, GELU)


@triton.jit
def let_by(gate, up, GELU: tl.constexpr):
    """Of one number each: the activation is rounded, and so is the product."""
    wide = gate.to(tl.float32)
    opened = wide
    if GELU:  # 1 + tanh(y) is twice the sigmoid of 2y
        opened = 2 * 0.7978845608028654 * (wide + 0.044715 * wide * wide * wide)
    active = (wide / (1.0 + tl.exp(-opened))).to(gate.dtype)
    product = active.to(tl.float32) * up.to(tl.float32)
    return product.to(gate.dtype)
