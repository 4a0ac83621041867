"""See `rope_angles`. A program has some tokens and all numbers that are turned of a head."""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait, libdevice


@triton.jit(do_not_specialize=("positions", "num_tokens"))
def turn_by(
    positions,
    frequencies,
    signs,
    cos,
    sin,
    amplitude,
    num_tokens,
    SIZE: tl.constexpr,
    SIZE_UP: tl.constexpr,
    ROWS: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Cosines and sines of some tokens."""
    number = tl.arange(0, SIZE_UP)
    inside = number < SIZE
    frequency = tl.load(frequencies + number, mask=inside, other=0.0)
    sign = tl.load(signs + number, mask=inside, other=0.0)
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = token < num_tokens
    position = tl.load(positions + token, mask=there, other=0).to(tl.float32)
    radians = position[:, None] * frequency[None, :]
    at = token.to(tl.int64)[:, None] * SIZE + number[None, :]
    written = there[:, None] & inside[None, :]
    tl.store(cos + at, (libdevice.cos(radians) * amplitude).to(cos.dtype.element_ty), mask=written)
    tl.store(sin + at, (libdevice.sin(radians) * sign).to(sin.dtype.element_ty), mask=written)
