"""How compressed-tensors stores matrices of bytes that meet activations of bytes (W8A8)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from aweigh_kernels.int8_weight import Int8Activation, Int8Weight
from aweigh_kernels.weight import Weight
from aweigh_runtime.formats.layout import FLOATS, LayoutError, Part
from aweigh_runtime.formats.scales import ONE, expect_scales, per_row, scalar

_ZEROS = ("I8", "I32", "I64")  # number formats of a zero point


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Layout:
    """`weight`, int8, and its scales."""

    by_row: bool  # a scale for each row; else one for all
    static: bool  # activations
    symmetric: bool  # activations: without a zero point

    @property
    def name(self) -> str:
        """`int8 per channel, activations dynamic`."""
        zeros = "" if self.symmetric else " with zero points"
        weights = "channel" if self.by_row else "tensor"
        return f"int8 per {weights}, activations {'static' if self.static else 'dynamic'}{zeros}"

    def parts(self, rows: int, columns: int) -> dict[str, Part]:
        """Its tensors."""
        parts = {
            "weight": Part(((rows, columns),), ("I8",)),
            "weight_scale": Part(per_row(rows) if self.by_row else ONE, FLOATS),
        }
        if self.static:
            parts["input_scale"] = Part(ONE, FLOATS)
        if self.static and not self.symmetric:
            parts["input_zero_point"] = Part(ONE, _ZEROS, optional=True)
        return parts

    def read(self, parts: Mapping[str, torch.Tensor], rows: int, columns: int) -> Int8Weight:
        """The weight; nothing is copied."""
        del rows, columns
        weight = Int8Weight(
            q=parts["weight"],
            scale=parts["weight_scale"].reshape(-1, 1),
            activation=self._activation(parts),
        )
        expect_scales("weight_scale", weight)
        return weight

    def write(self, weight: Weight) -> dict[str, torch.Tensor]:
        """The tensors of a weight."""
        if not isinstance(weight, Int8Weight):
            raise LayoutError(f"{self.name} holds no {type(weight).__name__}; expected Int8Weight")
        activation = weight.activation
        if (activation.scale is not None, activation.symmetric) != (self.static, self.symmetric):
            raise LayoutError(f"the weight's activations are treated differently than {self.name}")
        if not self.by_row and len(weight.scale) > 1:
            raise LayoutError(f"the weight has {len(weight.scale)} scales; expected 1 per tensor")
        shape = (len(weight.q), 1) if self.by_row else (1,)
        scale = weight.scale.expand(shape) if self.by_row else weight.scale.reshape(shape)
        stored = {"weight": weight.q, "weight_scale": scale.contiguous()}
        if activation.scale is not None:
            stored["input_scale"] = activation.scale.reshape(1)
        if activation.zero is not None:
            stored["input_zero_point"] = activation.zero.reshape(1).to(torch.int8)
        return stored

    def _activation(self, parts: Mapping[str, torch.Tensor]) -> Int8Activation:
        if not self.static:
            return Int8Activation(symmetric=self.symmetric)
        scale = scalar("input_scale", parts["input_scale"]).float()
        if self.symmetric:
            return Int8Activation(scale=scale)
        # Files from 2024 leave out a zero point of 0.
        stored = parts.get("input_zero_point", torch.zeros((), device=scale.device))
        zero = stored.reshape(()).to(torch.int32)
        if not -128 <= int(zero) <= 127:
            raise LayoutError(f"input_zero_point is {int(zero)}; expected -128 to 127")
        return Int8Activation(symmetric=False, scale=scale, zero=zero)
