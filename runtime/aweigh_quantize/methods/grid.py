"""The integers that weights are rounded to, and the scales they are multiplied with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from aweigh_kernels import bits
from aweigh_kernels.int_weight import IntWeight
from aweigh_quantize.failures import Unusable

Clip = Literal["none", "mse"]
WHOLE_ROW = -1
_SHARES = [1 - step / 32 for step in range(20)]  # of a group's range, that a search tries
_AT_ONCE = 1 << 18  # weights that are searched at once: what stays in a processor's cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Integers of some bits, each group of columns with a scale.

    Raises:
        ValueError: there are no such integers.
    """

    bits: int
    group: int = 128  # columns that share a scale; -1: all of a row
    symmetric: bool = True  # around zero; otherwise each group has a zero point
    dtype: torch.dtype = torch.float16  # of the scales

    def __post_init__(self) -> None:
        if self.bits not in bits.WIDTHS:
            raise ValueError(f"bits is {self.bits}; expected one of {bits.WIDTHS}")
        if self.group < 1 and self.group != WHOLE_ROW:
            raise ValueError(f"the group is {self.group}; expected 1 or more, or -1 for a row")

    @property
    def most(self) -> int:
        """The largest integer; the smallest is 0."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The zero point of symmetric integers."""
        return 1 << (self.bits - 1)

    def width(self, num_columns: int) -> int:
        """Columns of a group in a matrix of so many.

        Raises:
            ValueError: groups do not fill the matrix.
        """
        if self.group == WHOLE_ROW:
            return num_columns
        if num_columns % self.group:
            raise ValueError(f"the group is {self.group}; expected a divisor of K ({num_columns})")
        return self.group


def expect_weight(weight: torch.Tensor) -> None:
    """Refuse what is no matrix of finite numbers.

    Raises:
        ValueError, Unusable: says what it is.
    """
    if weight.dim() != 2 or not weight.numel():
        raise ValueError(f"the weight is {list(weight.shape)}; expected [N, K]")
    if not torch.isfinite(weight).all():
        raise Unusable("the weight holds numbers that are not finite; expected finite ones")


def scales(
    weight: torch.Tensor, grid: Grid, clip: Clip = "none", importance: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A scale and a zero point for each group.

    A symmetric group of largest magnitude m has the scale m / (2^(bits - 1) - 0.5): either end of
    the range then lies half a step beyond an integer, and the clipped end loses no more than
    rounding does.

    Args:
        weight: [N, K], fp32.
        grid: what to round to.
        clip: `none`: the largest weight of a group fixes its scale. `mse`: a smaller range where
            that lowers the squared error of the group.
        importance: [K] or [N, K], what squared errors count in that search; None: all the same.

    Returns:
        scale [N, K / group] of grid.dtype, above 0; zero as scale, int16, or None if symmetric.

    Raises:
        ValueError: the group does not divide K, or weights are not finite.
    """
    expect_weight(weight)
    groups = grouped(weight, grid)
    if clip == "none":
        return fitted(groups, torch.ones_like(groups[..., 0]), grid)
    counts = None if importance is None else grouped(importance, grid)
    return fitted(groups, _least_squares(groups, grid, counts), grid)


def shares(
    groups: torch.Tensor, grid: Grid, loss: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """The share of its range that each group should keep, its ends clipped.

    Args:
        groups: [N, G, group], fp32.
        grid: what to round to.
        loss: of errors [N, G, group], which it may overwrite: [N, G].

    Returns:
        [N, G], fp32, at most 1.
    """
    low, high = _range(groups, grid)
    best = torch.full_like(low, torch.inf)
    found = torch.ones_like(low)
    for share in _SHARES:
        scale, zero = _reaching(low * share, high * share, grid)
        wide, middle = scale.float()[..., None], _middle(zero, grid)
        rounded = nearest(groups, wide, middle, grid.most).sub_(middle).mul_(wide)
        lost = loss(rounded.sub_(groups))
        better = lost < best
        best = torch.where(better, lost, best)
        found.masked_fill_(better, share)
    return found


def fitted(
    groups: torch.Tensor, share: torch.Tensor, grid: Grid
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scales and zero points for a share [N, G] of the range of each group [N, G, group]."""
    low, high = _range(groups, grid)
    return _reaching(low * share, high * share, grid)


def nearest(
    values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | float, most: int
) -> torch.Tensor:
    """The integers from 0 to `most` nearest to values, as fp32."""
    return (values / scale).add_(zero).round_().clamp_(0, most)


def storable(scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Scales rounded to a number format, within its range and above 0."""
    limits = torch.finfo(dtype)
    return scale.clamp(limits.smallest_normal * limits.eps, limits.max).to(dtype)


def integers(
    weight: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, grid: Grid
) -> IntWeight:
    """Each weight alone to the nearest integer of its group.

    Args:
        weight: [N, K], fp32.
        scale: [N, K / group], of grid.dtype.
        zero: as scale, int16; None if symmetric.
        grid: what to round to.
    """
    middle = _middle(zero, grid)
    q = nearest(grouped(weight, grid), scale.float()[..., None], middle, grid.most)
    return IntWeight(
        q=q.flatten(1).to(torch.uint8),
        scale=scale,
        zero=zero,
        bits=grid.bits,
        group=grid.width(weight.shape[1]),
    )


def grouped(values: torch.Tensor, grid: Grid) -> torch.Tensor:
    """[..., K] as [..., G, group].

    Raises:
        ValueError: the group does not divide K.
    """
    return torch.unflatten(values, -1, (-1, grid.width(values.shape[-1])))


def _least_squares(groups: torch.Tensor, grid: Grid, counts: torch.Tensor | None) -> torch.Tensor:
    """Shares [N, G] of least squared errors, each of which counts as much as `counts` says."""
    step = max(_AT_ONCE // groups[0].numel(), 1)
    found = []
    for first in range(0, len(groups), step):
        part = slice(first, first + step)
        counted = 1.0 if counts is None else counts[part] if counts.dim() > 2 else counts

        def loss(errors: torch.Tensor, counted: torch.Tensor | float = counted) -> torch.Tensor:
            return errors.square_().mul_(counted).sum(-1)

        found.append(shares(groups[part], grid, loss))
    return torch.cat(found)


def _range(groups: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = groups.amin(-1).clamp_(max=0), groups.amax(-1).clamp_(min=0)
    if grid.symmetric:
        high = torch.maximum(-low, high)
        low = -high
    return low, high


def _reaching(
    low: torch.Tensor, high: torch.Tensor, grid: Grid
) -> tuple[torch.Tensor, torch.Tensor | None]:
    scale = storable((high - low) / grid.most, grid.dtype)
    if grid.symmetric:
        return scale, None
    return scale, (-low / scale.float()).round_().clamp_(0, grid.most).to(torch.int16)


def _middle(zero: torch.Tensor | None, grid: Grid) -> torch.Tensor | float:
    return float(grid.middle) if zero is None else zero.float()[..., None]
