"""Rounding to nearest: each weight alone, without inputs."""

import torch

from aweigh_kernels.int_weight import IntWeight
from aweigh_quantize.methods.grid import Clip, Grid, integers, scales


def quantize(weight: torch.Tensor, grid: Grid, clip: Clip = "none") -> IntWeight:
    """A matrix on a grid.

    Args:
        weight: [N, K], fp32.
        grid: what to round to.
        clip: whether groups may be clipped where that lowers their squared error.

    Raises:
        ValueError: the group does not divide K, or weights are not finite.
    """
    scale, zero = scales(weight, grid, clip)
    return integers(weight, scale, zero, grid)
