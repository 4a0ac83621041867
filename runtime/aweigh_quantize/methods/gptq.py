"""GPTQ (Frantar et al. 2022): columns are rounded in turn, each making up for errors before it.

Beyond the paper: scales are clipped where that lowers the squared error weighted with the Hessian's
diagonal, and the result is refined.
"""

from dataclasses import dataclass, replace

import torch

from aweigh_kernels.int_weight import IntWeight
from aweigh_quantize.methods.grid import WHOLE_ROW, Clip, Grid, expect_weight, scales
from aweigh_quantize.methods.hessian import (
    BLOCK,
    by_importance,
    compensate,
    compensated,
    damped,
    damped_diagonal,
    factor,
    spread,
)
from aweigh_quantize.methods.inputs import Inputs
from aweigh_quantize.methods.refinement import refine
from aweigh_quantize.methods.rounding import Rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How errors are made small. The paper's algorithm: clip `none`, no sweeps.

    Raises:
        ValueError: one is out of range.
    """

    damping: float = 0.01  # of the Hessian's mean diagonal, added to it
    act_order: bool = True  # columns with the largest inputs first
    static_groups: bool = True  # of neighbours, with scales known from the start: nothing to
    # permute when the model runs. Otherwise groups are of columns rounded one after the other, and
    # get their scales when the first is reached.
    clip: Clip = "mse"
    sweeps: int = 2  # of refinement; many fit the calibration's tokens more than the model's
    block: int = BLOCK  # columns whose errors reach the later ones together

    def __post_init__(self) -> None:
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping is {self.damping}; expected more than 0, at most 1")
        if self.sweeps < 0 or self.block < 1:
            raise ValueError(
                f"{self.sweeps} sweeps in blocks of {self.block}; expected 0 or more, 1 or more"
            )


def quantize(
    weight: torch.Tensor, inputs: Inputs, grid: Grid, options: Options | None = None
) -> IntWeight:
    """A matrix on a grid, its outputs near those it had.

    Memory: one matrix [K, K] in fp32 beside the inputs' Hessian, and a few of the weight's size.

    Args:
        weight: [N, K], floating point.
        inputs: what calibration knows of x, [K].
        grid: what to round to.
        options: how.

    Returns:
        With a permutation only in act order without static groups.

    Raises:
        ValueError: the group does not divide K, numbers are not finite, or tokens too few.
    """
    options = options or Options()
    weight, hessian, damping = prepared(weight, inputs), inputs.hessian, options.damping
    width = grid.width(weight.shape[1])
    static = options.static_groups or width == weight.shape[1]
    order = torch.arange(len(hessian), device=weight.device)
    if options.act_order:
        order = by_importance(hessian)
    perm = order if options.act_order and not static else None
    importance = damped_diagonal(hessian, damping)
    if perm is not None:
        weight, importance = weight[:, perm], importance[perm]
    rounding = Rounding(weight, *scales(weight, grid, options.clip, importance), grid)
    if static:
        compensate(rounding.columns, hessian, damping, order, rounding.round, options.block)
    else:
        _round_with_scales(rounding, factor(hessian, damping, perm), importance, grid, options)
    if options.sweeps:
        refine(rounding, damped(hessian, damping, perm), options.sweeps)
    q, scale, zero = rounding.tensors()
    return IntWeight(q=q, scale=scale, zero=zero, bits=grid.bits, group=width, perm=perm)


def prepared(weight: torch.Tensor, inputs: Inputs) -> torch.Tensor:
    """The weight in fp32, once it is known to fit its inputs.

    Raises:
        ValueError: they do not fit together, numbers are not finite, or tokens too few.
    """
    expect_weight(weight)
    inputs.expect_enough()
    if weight.shape[1] != len(inputs.hessian):
        raise ValueError(f"the weight is {list(weight.shape)}; expected [N, {len(inputs.hessian)}]")
    return weight.float()


def _round_with_scales(
    rounding: Rounding,
    upper: torch.Tensor,
    importance: torch.Tensor,
    grid: Grid,
    options: Options,
) -> None:
    """All columns as they lie; a group gets its scales from what its columns should be by then."""
    width = rounding.width
    one_group = replace(grid, group=WHOLE_ROW)
    for first in range(0, len(upper), width):
        part = slice(first, first + width)
        values, inverse = compensated(rounding.columns, rounding.errors, upper, part)
        found, zero = scales(values.t(), one_group, options.clip, importance[part])
        rounding.rescale(first // width, found[:, 0], None if zero is None else zero[:, 0])
        for place in range(width):
            spread(values, inverse, place, rounding.round(first + place, values[place]))
