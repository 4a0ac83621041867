"""What compressed-tensors' two ways to store small integers share: groups, scales, zero points."""

import math
from dataclasses import dataclass

import torch

from aweigh_kernels.int_weight import IntWeight
from aweigh_runtime.formats.layout import LayoutError
from aweigh_runtime.formats.scales import ONE


@dataclass(frozen=True, slots=True, kw_only=True)
class IntGroups:
    """Which of a matrix' integers share a scale."""

    bits: int
    size: int | None = None  # columns of a group; None: whole rows
    by_row: bool = True  # False: one scale for the whole matrix
    zeros: bool = False  # with zero points

    @property
    def name(self) -> str:
        """`int4 in groups of 128 with zero points`."""
        shared = f"in groups of {self.size}" if self.size else "per channel"
        zeros = " with zero points" if self.zeros else ""
        return f"int{self.bits} {shared if self.by_row else 'per tensor'}{zeros}"

    @property
    def middle(self) -> int:
        """The stored number that means 0 where there are no zero points."""
        return 1 << (self.bits - 1)

    def columns_of_group(self, columns: int) -> int:
        """How many columns share a scale.

        Raises:
            LayoutError: the columns are no whole groups.
        """
        size = self.size or columns
        if columns % size:
            raise LayoutError(f"{columns} columns are no whole groups of {size}")
        return size

    def scale_shapes(self, rows: int, columns: int) -> tuple[tuple[int, ...], ...]:
        """Of the scales; the first is written."""
        if not self.by_row:
            return ONE
        groups = columns // self.columns_of_group(columns)
        return ((rows, 1), (rows,)) if groups == 1 else ((rows, groups),)

    def as_stored(self, values: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """Scales or zero points as [N or 1, groups] become what a file holds.

        Raises:
            LayoutError: a file has fewer.
        """
        shape = self.scale_shapes(rows, columns)[0]
        if values.numel() > math.prod(shape):
            raise LayoutError(f"the weight has {values.numel()} scales; expected {self.name}")
        return values.expand(shape) if self.by_row else values.reshape(shape)

    def as_read(self, stored: torch.Tensor, rows: int) -> torch.Tensor:
        """The other way."""
        return stored.reshape(rows if self.by_row else 1, -1)

    def zeros_of(self, weight: IntWeight) -> torch.Tensor | None:
        """The zero points to write, [N or 1, groups] int16.

        Raises:
            LayoutError: the weight has some that a file cannot hold.
        """
        if weight.bits != self.bits or weight.group != self.columns_of_group(weight.shape[1]):
            raise LayoutError(
                f"the weight has {weight.bits} bits in groups of {weight.group}; expected "
                f"{self.name}"
            )
        if not self.zeros:
            if weight.zero is not None:
                raise LayoutError(f"the weight has zero points; expected {self.name}")
            return None
        if weight.zero is None:
            return torch.full_like(weight.scale, self.middle, dtype=torch.int16)
        if int(weight.zero.min()) < 0 or int(weight.zero.max()) >= 1 << self.bits:
            raise LayoutError(
                f"the weight has zero points from {int(weight.zero.min())} to "
                f"{int(weight.zero.max())}; expected 0 to {(1 << self.bits) - 1}"
            )
        return weight.zero
