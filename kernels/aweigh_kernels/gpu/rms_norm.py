"""See `rms_norm`. A program holds its rows in registers: what it reads, it reads once."""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from aweigh_kernels.gpu.ahead import ask


@triton.jit(do_not_specialize=("num_rows",))
def normalize(
    x,
    residual,
    weight,
    output,
    num_rows,
    eps,
    SIZE: tl.constexpr,
    SIZE_UP: tl.constexpr,
    ROWS: tl.constexpr,
    ADD: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Some whole rows."""
    if EARLY:
        gdc_launch_dependents()
        if tl.program_id(0) == 0:  # one is enough, and all of them would take longer than rows do
            line = tl.arange(0, SIZE_UP // 32 if SIZE_UP > 32 else 1) * 32
            ask(weight + tl.minimum(line, SIZE - 1))
        gdc_wait()
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, SIZE_UP)
    inside = column < SIZE
    there = (row < num_rows)[:, None] & inside[None, :]
    at = row[:, None] * SIZE + column[None, :]
    hidden = tl.load(x + at, mask=there, other=0.0)
    if ADD:
        added = tl.load(residual + at, mask=there, other=0.0)
        hidden = (hidden.to(tl.float32) + added.to(tl.float32)).to(hidden.dtype)
        tl.store(residual + at, hidden, mask=there)
    weights = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    wide = hidden.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 1) / SIZE + eps)
    normed = wide * scale[:, None] * weights[None, :]
    tl.store(output + at, normed.to(hidden.dtype), mask=there)
