"""Rotary position embedding: frequencies from the config, and turning queries and keys.

    turned = [x1·cos - x2·sin, x2·cos + x1·sin],   x1 and x2 the halves of a head

Angles are computed in fp32 at every dtype: bf16 positions past 256 would not be whole numbers.
"""

import math

import torch

from aweigh_runtime.model.config import Llama3Scaling, Rope


def inverse_frequencies(rope: Rope, head_dim: int, device: torch.device) -> torch.Tensor:
    """Radians per position of each pair of a head: [D/2], fp32."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    frequencies: torch.Tensor = 1.0 / rope.theta**exponent
    return frequencies if rope.scaling is None else _llama3(frequencies, rope.scaling)


def _llama3(frequencies: torch.Tensor, scaling: Llama3Scaling) -> torch.Tensor:
    turns = scaling.original_max_positions * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)  # 1: high frequency, 0: low
    return (1 - kept) * frequencies / scaling.factor + kept * frequencies


def angles(
    positions: torch.Tensor, frequencies: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine for each token.

    Args:
        positions: [T], int64.
        frequencies: [D/2], fp32.
        dtype: of the activations.

    Returns:
        cos, sin: [T, 1, D], `dtype`; the halves of sin carry the signs of the formula above.
    """
    radians = (positions[:, None] * frequencies)[:, None, :]  # [T, 1, D/2]
    cos, sin = radians.cos(), radians.sin()
    return torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)


def turn(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate heads [T, H+K, D] by their positions; returns a new contiguous tensor."""
    swapped = heads.roll(heads.shape[-1] // 2, -1)
    return torch.addcmul(heads * cos, swapped, sin)
