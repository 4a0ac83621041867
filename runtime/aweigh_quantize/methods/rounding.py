"""A matrix on its way to integers: what is rounded already, and what that took from it.

It is kept transposed, so that a column of the weight lies in one piece.
"""

import torch

from aweigh_quantize.methods.grid import Grid, nearest, storable


class Rounding:
    """Levels (integers less their zero point), their scales, and the errors that they leave."""

    def __init__(
        self, weight: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, grid: Grid
    ) -> None:
        """Nothing is rounded yet; weight [N, K], scale and zero [N, K / group] as in `Grid`."""
        self.columns = weight.t().contiguous()  # [K, N]
        self.levels = torch.zeros_like(self.columns)
        self.errors = torch.zeros_like(self.columns)
        self.kept: torch.Tensor | None = None  # [K, N], fp32, 0 or 1; None: all are kept
        self.scale = scale.t().float().contiguous()  # [G, N]
        self.zero = torch.full_like(self.scale, grid.middle)
        if zero is not None:
            self.zero = zero.t().float().contiguous()
        self.width = grid.width(len(self.columns))  # columns of a group
        self._grid = grid
        self._symmetric = zero is None

    def rescale(self, group: int, scale: torch.Tensor, zero: torch.Tensor | None) -> None:
        """Give a group that has not been rounded another scale and zero point, [N]."""
        self.scale[group] = scale.float()
        if zero is not None:
            self.zero[group] = zero.float()

    def refit(self, group: int, lack: torch.Tensor, corner: torch.Tensor) -> None:
        """Give a rounded group the scales that lose least with its levels, where that helps.

        Args:
            group: its number.
            lack: [group, N], H times the errors in its columns, kept up to date.
            corner: [group, group], H among its columns.
        """
        part = slice(group * self.width, (group + 1) * self.width)
        levels, scale = self.levels[part], self.scale[group]
        pull = corner @ levels
        slope, curve = (levels * lack).sum(0), (levels * pull).sum(0)
        best = scale + slope / curve.clamp(min=torch.finfo(torch.float32).tiny)
        step = storable(best, self._grid.dtype).float().sub_(scale)
        better = step * (step * curve - 2 * slope) < 0  # what the loss grows by
        step = torch.where(better, step, torch.zeros_like(step))
        scale += step
        lack.addcmul_(pull, step, value=-1)
        self.errors[part].addcmul_(levels, step, value=-1)

    def round(self, column: int, values: torch.Tensor) -> torch.Tensor:
        """Round a column [N] from these values, and return what it is worth now, [N]."""
        group = column // self.width
        scale, zero = self.scale[group], self.zero[group]
        level = nearest(values, scale, zero, self._grid.most).sub_(zero)
        if self.kept is not None:
            level.mul_(self.kept[column])
        self.levels[column] = level
        rounded = level.mul_(scale)
        torch.sub(self.columns[column], rounded, out=self.errors[column])
        return rounded

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """q [N, K] uint8, scale [N, K / group] of the grid's number format, zero int16 or None."""
        groups = torch.unflatten(self.levels, 0, (-1, self.width)).add(self.zero[:, None])
        q = groups.flatten(0, 1).t().to(torch.uint8).contiguous()
        zero = None if self._symmetric else self.zero.t().to(torch.int16).contiguous()
        return q, self.scale.t().to(self._grid.dtype).contiguous(), zero
