"""How matrices of 8-bit floating point are stored: by quant_method fp8, compressed-tensors and
NVIDIA ModelOpt alike, under different names.

`weight_scale_inv`, whatever its name says, is multiplied (DeepSeek-V3, README_WEIGHTS).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from aweigh_kernels.fp8_weight import BLOCK, Fp8Activation, Fp8Weight
from aweigh_kernels.rounding import Rounding
from aweigh_kernels.weight import Weight
from aweigh_runtime.formats.layout import FLOATS, LayoutError, Part
from aweigh_runtime.formats.scales import ONE, expect_scales, per_row, scalar

Granularity = Literal["tensor", "channel", "block"]
E4M3, E5M2 = "F8_E4M3", "F8_E5M2"
_DTYPES = {E4M3: torch.float8_e4m3fn, E5M2: torch.float8_e5m2}
_LEAST_BROKEN = {torch.float8_e4m3fn: 0x7F, torch.float8_e5m2: 0x7C}  # code of a NaN or infinity
_WORDS = {"static": "static", "token": "dynamic", "group": "dynamic by 128"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Layout:
    """`weight` and its scales."""

    granularity: Granularity  # what is written; per tensor also reads a scale for each row
    activation: Rounding | None  # None: 16 bits
    dtypes: tuple[str, ...] = (E4M3,)
    scale_names: tuple[str, ...] = ("weight_scale",)  # one of them; the first is written
    activation_names: tuple[str, ...] = ("input_scale",)  # the same

    @property
    def name(self) -> str:
        """`fp8 per channel, activations dynamic`."""
        seen = "in 16 bits" if self.activation is None else _WORDS[self.activation]
        return f"fp8 per {self.granularity}, activations {seen}"

    def parts(self, rows: int, columns: int) -> dict[str, Part]:
        """Its tensors."""
        scale = Part(self._scale_shapes(rows, columns), FLOATS, len(self.scale_names) > 1)
        parts = {"weight": Part(((rows, columns),), self.dtypes)}
        parts |= dict.fromkeys(self.scale_names, scale)
        if self.activation == "static":
            one = Part(ONE, FLOATS, len(self.activation_names) > 1)
            parts |= dict.fromkeys(self.activation_names, one)
        return parts

    def read(self, parts: Mapping[str, torch.Tensor], rows: int, columns: int) -> Fp8Weight:
        """The weight; nothing is copied."""
        del rows, columns
        q = parts["weight"]
        _expect_numbers(q)
        name = _given(parts, self.scale_names)
        blocks = self.granularity == "block"
        scale = parts[name] if blocks else parts[name].reshape(-1, 1)
        weight = Fp8Weight(q=q, scale=scale, blocks=blocks, activation=self._activation(parts))
        expect_scales(name, weight)
        return weight

    def write(self, weight: Weight) -> dict[str, torch.Tensor]:
        """The tensors of a weight."""
        if not isinstance(weight, Fp8Weight):
            raise LayoutError(f"{self.name} holds no {type(weight).__name__}; expected Fp8Weight")
        rounding = None if weight.activation is None else weight.activation.rounding
        kind = (weight.blocks, rounding)
        if kind != (self.granularity == "block", self.activation):
            raise LayoutError(
                f"the weight is rounded {'by block' if weight.blocks else 'by row'} and its "
                f"activations {rounding}; expected {self.name}"
            )
        if weight.q.dtype not in [_DTYPES[dtype] for dtype in self.dtypes]:
            raise LayoutError(f"the weight is {weight.q.dtype}; expected {', '.join(self.dtypes)}")
        if self.granularity == "tensor" and len(weight.scale) > 1:
            raise LayoutError(f"the weight has {len(weight.scale)} scales; expected 1 per tensor")
        shape = self._scale_shapes(*weight.shape)[0]
        scale = weight.scale if self.granularity != "channel" else weight.scale.expand(shape)
        stored = {"weight": weight.q, self.scale_names[0]: scale.reshape(shape).contiguous()}
        if weight.activation is not None and weight.activation.scale is not None:
            stored[self.activation_names[0]] = weight.activation.scale.reshape(1)
        return stored

    def _scale_shapes(self, rows: int, columns: int) -> tuple[tuple[int, ...], ...]:
        if self.granularity == "block":
            return ((-(-rows // BLOCK), -(-columns // BLOCK)),)
        by_row = per_row(rows)
        return by_row if self.granularity == "channel" else (*ONE, *by_row)

    def _activation(self, parts: Mapping[str, torch.Tensor]) -> Fp8Activation | None:
        if self.activation is None:
            return None
        if self.activation != "static":
            return Fp8Activation(rounding=self.activation)
        name = _given(parts, self.activation_names)
        return Fp8Activation(rounding="static", scale=scalar(name, parts[name]).float())


def _given(parts: Mapping[str, torch.Tensor], names: tuple[str, ...]) -> str:
    found = [name for name in names if name in parts]
    if len(found) != 1:
        raise LayoutError(
            f"{' and '.join(found) or 'none'} is there; expected {' or '.join(names)}"
        )
    return found[0]


def _expect_numbers(q: torch.Tensor) -> None:
    codes = q.view(torch.uint8) & 0x7F
    if codes.numel() and int(codes.max()) >= _LEAST_BROKEN[q.dtype]:
        raise LayoutError("weight holds numbers that are not finite; copy the model again")
