"""How NVFP4 is stored: by compressed-tensors, which divides by the global scale, and by NVIDIA
ModelOpt, which multiplies with it. Two numbers share a byte, the first in the low half.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from aweigh_kernels.fp4_weight import GROUP, Fp4Weight
from aweigh_kernels.weight import Weight
from aweigh_runtime.formats.layout import LayoutError, Part
from aweigh_runtime.formats.scales import ONE, expect_scales, scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """What the tensors are called, and whether global scales are stored inverted."""

    packed: str
    global_scale: str
    activation_scale: str
    inverted: bool


COMPRESSED_TENSORS = Spelling(
    packed="weight_packed",
    global_scale="weight_global_scale",
    activation_scale="input_global_scale",
    inverted=True,
)
MODELOPT = Spelling(
    packed="weight",
    global_scale="weight_scale_2",
    activation_scale="input_scale",
    inverted=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp4Layout:
    """The packed weight, a scale for each 16 columns, and global ones."""

    spelling: Spelling
    activations: bool  # in NVFP4 as well

    @property
    def name(self) -> str:
        """`nvfp4, activations in 16 bits`."""
        return f"nvfp4, activations in {'nvfp4' if self.activations else '16 bits'}"

    def parts(self, rows: int, columns: int) -> dict[str, Part]:
        """Its tensors."""
        if columns % GROUP:
            raise LayoutError(f"{columns} columns are no whole groups of {GROUP}")
        parts = {
            self.spelling.packed: Part(((rows, columns // 2),), ("U8",)),
            "weight_scale": Part(((rows, columns // GROUP),), ("F8_E4M3",)),
            self.spelling.global_scale: Part(ONE, ("F32",)),
        }
        if self.activations:
            parts[self.spelling.activation_scale] = Part(ONE, ("F32",))
        return parts

    def read(self, parts: Mapping[str, torch.Tensor], rows: int, columns: int) -> Fp4Weight:
        """The weight."""
        del rows, columns
        packed = parts[self.spelling.packed]
        activation_scale = None
        if self.activations:
            activation_scale = self._global(parts, self.spelling.activation_scale)
        weight = Fp4Weight(
            q=torch.stack((packed & 15, packed >> 4), -1).flatten(1),
            scale=parts["weight_scale"],
            global_scale=self._global(parts, self.spelling.global_scale).reshape(1, 1),
            activation_scale=activation_scale,
        )
        expect_scales("weight_scale", weight)
        return weight

    def write(self, weight: Weight) -> dict[str, torch.Tensor]:
        """The tensors of a weight. Its global scales must be numbers that fp32 holds."""
        if not isinstance(weight, Fp4Weight):
            raise LayoutError(f"{self.name} holds no {type(weight).__name__}; expected Fp4Weight")
        if (weight.activation_scale is not None) != self.activations:
            raise LayoutError(f"the weight's activations are treated differently than {self.name}")
        if bool((weight.global_scale != weight.global_scale[0]).any()):
            raise LayoutError("the weight has several global scales; expected 1")
        stored = {
            self.spelling.packed: weight.q[:, ::2] | (weight.q[:, 1::2] << 4),
            "weight_scale": weight.scale,
            self.spelling.global_scale: self._stored(weight.global_scale[0, 0]),
        }
        if weight.activation_scale is not None:
            stored[self.spelling.activation_scale] = self._stored(weight.activation_scale)
        return stored

    def _global(self, parts: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
        value = scalar(name, parts[name]).double()
        return 1 / value if self.spelling.inverted else value

    def _stored(self, scale: torch.Tensor) -> torch.Tensor:
        """[1], fp32.

        Raises:
            LayoutError: it would be read as another number.
        """
        inverted = self.spelling.inverted
        stored = (1 / scale if inverted else scale).float().reshape(1)
        meant = 1 / stored.double() if inverted else stored.double()
        if float(meant) != float(scale):
            raise LayoutError(
                f"the global scale {float(scale)!r} is no {'inverse of an ' if inverted else ''}"
                "fp32 number; round it before quantizing"
            )
        return stored
