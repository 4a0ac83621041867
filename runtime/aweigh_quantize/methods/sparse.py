"""2:4 sparsity: of four neighbouring weights two are kept, and rounded to 4 or 8 bits.

SparseGPT (Frantar and Alistarh 2023) chooses them as it rounds, so that later columns make up for
what is left out as well as for what is rounded.
"""

import torch

from aweigh_kernels.sparse_int_weight import WIDTHS, SparseIntWeight
from aweigh_quantize.methods.gptq import Options, prepared
from aweigh_quantize.methods.grid import Clip, Grid, expect_weight, integers, scales
from aweigh_quantize.methods.hessian import compensated, damped, damped_diagonal, factor, spread
from aweigh_quantize.methods.inputs import Inputs
from aweigh_quantize.methods.refinement import refine
from aweigh_quantize.methods.rounding import Rounding

FOUR = 4
_KEPT = 2  # of four


def magnitude(weight: torch.Tensor, grid: Grid, clip: Clip = "none") -> SparseIntWeight:
    """The larger two of four, each rounded alone.

    Args:
        weight: [N, K], floating point.
        grid: what to round to.
        clip: as for `rtn`.

    Raises:
        ValueError: K is no multiple of four or of the group, the grid has zero points or other
            bits, or weights are not finite.
    """
    _expect(weight, grid)
    wide = weight.float()
    kept = _largest_two(torch.unflatten(wide.abs(), 1, (-1, FOUR))).flatten(1)
    wide = wide * kept
    scale, zero = scales(wide, grid, clip, kept)
    return _gathered(integers(wide, scale, zero, grid).q, kept, scale, grid)


def quantize(
    weight: torch.Tensor, inputs: Inputs, grid: Grid, options: Options | None = None
) -> SparseIntWeight:
    """The two of four and their integers that leave outputs near what they were.

    Memory: as `gptq.quantize`.

    Args:
        weight: [N, K], floating point.
        inputs: what calibration knows of x, [K].
        grid: what to round to.
        options: how. Columns are taken as they lie and scales are static, whatever it says.

    Raises:
        ValueError: as `magnitude`, or tokens too few.
    """
    options = options or Options()
    _expect(weight, grid)
    weight, hessian, damping = prepared(weight, inputs), inputs.hessian, options.damping
    diagonal = damped_diagonal(hessian, damping)
    # Which are kept is not known yet; those that cost most by themselves are likely to be.
    likely = _largest_two(torch.unflatten((weight.square() * diagonal), 1, (-1, FOUR))).flatten(1)
    scale, zero = scales(weight * likely, grid, options.clip, diagonal * likely)
    rounding = Rounding(weight, scale, zero, grid)
    rounding.kept = torch.ones_like(rounding.columns)
    _round(rounding, rounding.kept, factor(hessian, damping), options.block)
    if options.sweeps:
        refine(rounding, damped(hessian, damping), options.sweeps)
    q, scale, _ = rounding.tensors()
    return _gathered(q, rounding.kept.t(), scale, grid)


def _round(rounding: Rounding, kept: torch.Tensor, upper: torch.Tensor, block: int) -> None:
    """All columns; which are kept [K, N] is written four by four."""
    block = max(block // FOUR, 1) * FOUR
    for first in range(0, len(kept), block):
        part = slice(first, min(first + block, len(kept)))
        values, inverse = compensated(rounding.columns, rounding.errors, upper, part)
        costs = inverse.diagonal().square()[:, None]
        for place in range(len(values)):
            if place % FOUR == 0:
                four = slice(place, place + FOUR)
                lost = values[four].square() / costs[four]  # if it is left out
                kept[first + place : first + place + FOUR] = _largest_two(lost.t()).t()
            spread(values, inverse, place, rounding.round(first + place, values[place]))


def _largest_two(costs: torch.Tensor) -> torch.Tensor:
    """1 for the largest two of [..., 4], of equal ones the first, 0 for the others; fp32."""
    places = costs.sort(dim=-1, descending=True, stable=True).indices[..., :_KEPT]
    return torch.zeros_like(costs).scatter_(-1, places, 1.0)


def _gathered(
    q: torch.Tensor, kept: torch.Tensor, scale: torch.Tensor, grid: Grid
) -> SparseIntWeight:
    """The kept integers of q [N, K]."""
    fours = torch.unflatten(kept, 1, (-1, FOUR))
    index = fours.sort(dim=-1, descending=True, stable=True).indices[..., :_KEPT]
    found = torch.unflatten(q, 1, (-1, FOUR)).gather(-1, index)
    return SparseIntWeight(
        q=found.flatten(1),
        index=index.flatten(1).to(torch.uint8),
        scale=scale,
        bits=grid.bits,
        group=grid.width(q.shape[1]),
    )


def _expect(weight: torch.Tensor, grid: Grid) -> None:
    expect_weight(weight)
    if not grid.symmetric or grid.bits not in WIDTHS:
        raise ValueError(
            f"the grid has {grid.bits} bits{'' if grid.symmetric else ' and zero points'}; "
            f"expected symmetric integers of {' or '.join(map(str, WIDTHS))} bits"
        )
    width = grid.width(weight.shape[1])
    if width % FOUR:
        raise ValueError(f"the group is {width}; expected a multiple of {FOUR}")
