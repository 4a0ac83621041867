"""AWQ (Lin et al. 2023): columns that meet large inputs are scaled up before rounding.

Whoever computes x divides it by the same scales, so that nothing else changes.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import linear

from aweigh_kernels.int_weight import IntWeight
from aweigh_quantize.methods.grid import Grid, expect_weight, fitted, grouped, integers, shares
from aweigh_quantize.methods.inputs import Inputs
from aweigh_quantize.methods.rtn import quantize as nearest

_ALPHAS = 20  # exponents that are tried, from 0 on
_SMALLEST_MEAN = 1e-4  # of inputs: a column that is nearly 0 is not scaled without bound
_AT_ONCE = 1 << 24  # weights that are searched at once


def scales(weights: Sequence[torch.Tensor], inputs: Inputs, grid: Grid) -> torch.Tensor:
    """What columns are multiplied with before rounding, so that outputs change least.

    Powers of the inputs' mean magnitudes are tried; the errors are those of the outputs of the
    sampled rows.

    Args:
        weights: [N, K] each, floating point, of all matrices that the same x meets.
        inputs: of x.
        grid: what will be rounded to.

    Returns:
        [K], fp32, positive, around 1; 1 where nothing is gained.

    Raises:
        ValueError: the group does not divide K, numbers are not finite, or tokens too few.
    """
    inputs.expect_enough()
    rows = inputs.rows.float()
    wide = [weight.float() for weight in weights]
    best, least = torch.ones_like(inputs.mean_abs), torch.inf
    for step in range(_ALPHAS):
        tried = inputs.mean_abs.clamp(min=_SMALLEST_MEAN).pow(step / _ALPHAS)
        tried = tried / (tried.amax() * tried.amin()).sqrt()
        lost = sum(_output_error(weight, rows, tried, grid) for weight in wide)
        if lost < least:
            best, least = tried, lost
    return best


def clip(weight: torch.Tensor, inputs: Inputs, grid: Grid) -> torch.Tensor:
    """The share of its range that each group should keep, so that outputs change least.

    Args:
        weight: [N, K], floating point, already scaled.
        inputs: of x, already scaled.
        grid: what will be rounded to.

    Returns:
        [N, K / group], fp32, at most 1.

    Raises:
        ValueError: the group does not divide K, numbers are not finite, or tokens too few.
    """
    expect_weight(weight)
    inputs.expect_enough()
    width = grid.width(weight.shape[1])
    blocks = torch.stack(
        [
            inputs.hessian[first : first + width, first : first + width]
            for first in range(0, weight.shape[1], width)
        ]
    )  # [G, group, group]

    def loss(errors: torch.Tensor) -> torch.Tensor:
        pulled = torch.bmm(errors.transpose(0, 1), blocks)  # [G, N, group]
        return pulled.transpose(0, 1).mul(errors).sum(-1)

    step = max(_AT_ONCE // weight.shape[1], 1)
    parts = torch.split(weight.float(), step)
    return torch.cat([shares(grouped(part, grid), grid, loss) for part in parts])


def quantize(weight: torch.Tensor, grid: Grid, clip: torch.Tensor | None = None) -> IntWeight:
    """A scaled matrix on a grid.

    Args:
        weight: [N, K], floating point.
        grid: what to round to.
        clip: [N, K / group], what `clip` found; None: whole ranges.

    Raises:
        ValueError: the group does not divide K, or weights are not finite.
    """
    if clip is None:
        return nearest(weight.float(), grid)
    expect_weight(weight)
    wide = weight.float()
    return integers(wide, *fitted(grouped(wide, grid), clip, grid), grid)


def _output_error(
    weight: torch.Tensor, rows: torch.Tensor, tried: torch.Tensor, grid: Grid
) -> float:
    rounded = nearest(weight * tried, grid).dense().div_(tried)
    return float(linear(rows, rounded.sub_(weight)).square().sum())
