"""By what the rotary embedding turns each token: cosines and sines, in one launch (Triton).

Bound: launching. Torch takes seven operations of a microsecond or two each before the first layer
of every step. Angles are fp32, cosines and sines CUDA's own, so that bits are torch's.
"""

import torch
import triton

from aweigh_kernels.dense import NARROW, expect_dense, starts_early
from aweigh_kernels.gpu.rope_angles import turn_by

_ROWS = 4  # tokens of a program


def rope_angles(
    positions: torch.Tensor,
    frequencies: torch.Tensor,
    signs: torch.Tensor,
    amplitude: float,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine for each token.

    Args:
        positions: [T], int64, on a GPU, like all of them.
        frequencies: [size], fp32: radians per position.
        signs: [size], fp32, that sines are multiplied with.
        amplitude: that cosines are multiplied with.
        dtype: bf16 or fp16.

    Returns:
        cos, sin: [T, 1, size], `dtype`.

    Raises:
        ValueError: shapes, number formats, strides or devices are others.
    """
    num_tokens, size = len(positions), len(frequencies)
    expect_dense("positions", positions, [num_tokens], [torch.int64])
    expect_dense("frequencies", frequencies, [size], [torch.float32])
    expect_dense("signs", signs, [size], [torch.float32])
    if dtype not in NARROW:
        raise ValueError(f"dtype is {dtype}; expected one of {', '.join(map(str, NARROW))}")
    cos, sin = (
        torch.empty(num_tokens, 1, size, dtype=dtype, device=positions.device) for _ in range(2)
    )
    if num_tokens:
        early = starts_early(positions.device)
        turn_by[(triton.cdiv(num_tokens, _ROWS),)](
            positions,
            frequencies,
            signs,
            cos,
            sin,
            amplitude,
            num_tokens,
            SIZE=size,
            SIZE_UP=triton.next_power_of_2(size),
            ROWS=_ROWS,
            EARLY=early,
            num_warps=4,
            launch_pdl=early,
        )
    return cos, sin


def reference(
    positions: torch.Tensor,
    frequencies: torch.Tensor,
    signs: torch.Tensor,
    amplitude: float,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by torch, on any device."""
    radians = positions[:, None, None] * frequencies
    return (radians.cos() * amplitude).to(dtype), (radians.sin() * signs).to(dtype)
