"""How compressed-tensors stores small integers in a byte each, for activations of 16 bits."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.weight import Weight
from aweigh_runtime.formats.int_groups import IntGroups
from aweigh_runtime.formats.layout import FLOATS, LayoutError, Part
from aweigh_runtime.formats.scales import expect_scales


@dataclass(frozen=True, slots=True)
class PlainIntLayout:
    """`weight`, int8, its scales and zero points."""

    groups: IntGroups

    @property
    def name(self) -> str:
        """`int8 per channel, a byte each`."""
        return f"{self.groups.name}, a byte each"

    def parts(self, rows: int, columns: int) -> dict[str, Part]:
        """Its tensors."""
        shapes = self.groups.scale_shapes(rows, columns)
        parts = {
            "weight": Part(((rows, columns),), ("I8",)),
            "weight_scale": Part(shapes, FLOATS),
        }
        if self.groups.zeros:
            parts["weight_zero_point"] = Part(shapes, ("I8",))
        return parts

    def read(self, parts: Mapping[str, torch.Tensor], rows: int, columns: int) -> IntWeight:
        """The weight."""
        zero = None
        if self.groups.zeros:
            zero = self.groups.as_read(self._unsigned(parts, "weight_zero_point"), rows)
        weight = IntWeight(
            q=self._unsigned(parts, "weight").to(torch.uint8),
            scale=self.groups.as_read(parts["weight_scale"], rows),
            zero=zero,
            bits=self.groups.bits,
            group=self.groups.columns_of_group(columns),
        )
        expect_scales("weight_scale", weight)
        return weight

    def write(self, weight: Weight) -> dict[str, torch.Tensor]:
        """The tensors of a weight."""
        if not isinstance(weight, IntWeight):
            raise LayoutError(f"{self.name} holds no {type(weight).__name__}; expected IntWeight")
        if weight.perm is not None:
            raise LayoutError(f"the weight's columns are reordered; expected {self.name}")
        zero = self.groups.zeros_of(weight)
        scale = self.groups.as_stored(weight.scale, *weight.shape)
        stored = {"weight": self._signed(weight.q), "weight_scale": scale.contiguous()}
        if zero is not None:
            stored["weight_zero_point"] = self._signed(self.groups.as_stored(zero, *weight.shape))
        return stored

    def _signed(self, values: torch.Tensor) -> torch.Tensor:
        return (values.to(torch.int16) - self.groups.middle).to(torch.int8)

    def _unsigned(self, parts: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
        """int16, from 0."""
        values = parts[name].to(torch.int16) + self.groups.middle
        if values.numel() and (values.min() < 0 or values.max() >= 1 << self.groups.bits):
            raise LayoutError(
                f"{name} holds {int(values.min()) - self.groups.middle} to "
                f"{int(values.max()) - self.groups.middle}; expected numbers of "
                f"{self.groups.bits} bits"
            )
        return values
