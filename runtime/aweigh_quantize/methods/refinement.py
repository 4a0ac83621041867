"""Rounds a rounded matrix again: each weight given all others, each scale given its integers.

Coordinate descent on tr(E H Eᵀ): a weight's loss is a parabola, so the integer nearest to its
lowest point is the best one, and no step raises the loss.
"""

import torch

from aweigh_quantize.methods.rounding import Rounding

_BLOCK = 128  # columns whose steps reach the later ones of a wide group together


def refine(rounding: Rounding, hessian: torch.Tensor, sweeps: int) -> None:
    """Lower the loss of a matrix whose columns are all rounded.

    Each sweep costs N·K² products: H times the errors is made anew for each group, so that errors
    of arithmetic do not add up.

    Args:
        rounding: what is changed.
        hessian: [K, K], fp32, with a positive diagonal.
        sweeps: over all columns.
    """
    width = rounding.width
    for _ in range(sweeps):
        for group in range(len(rounding.scale)):
            rows = hessian[group * width : (group + 1) * width]
            lack = rows @ rounding.errors  # [group, N]
            corner = rows[:, group * width : (group + 1) * width]
            rounding.refit(group, lack, corner)
            for first in range(0, width, _BLOCK):
                _round_again(rounding, group * width, lack[first:], corner[first:, first:], first)


def _round_again(
    rounding: Rounding, start: int, lack: torch.Tensor, corner: torch.Tensor, first: int
) -> None:
    """The block at the front of `lack` and `corner`: the rest of a group from column `first` on."""
    count = min(_BLOCK, len(lack))
    part = slice(start + first, start + first + count)
    before = rounding.errors[part].clone()
    curves = corner.diagonal().tolist()
    for place in range(count):
        column = part.start + place
        error = before[place]
        # Where the parabola of this weight is lowest.
        wanted = (rounding.columns[column] - error).add_(lack[place] / curves[place])
        rounding.round(column, wanted)
        gained = error - rounding.errors[column]
        lack[place + 1 : count].addr_(corner[place, place + 1 : count], gained, alpha=-1)
    if len(lack) > count:
        lack[count:].addmm_(corner[count:, :count], before - rounding.errors[part], alpha=-1)
