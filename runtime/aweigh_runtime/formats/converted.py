"""Brings NVFP4 weights to FP8 in blocks of 128 by 128 while a checkpoint is loaded.

A weight then takes 8 bits in place of 4.5, and is rounded once more: of a value times its group's
scale, six significant bits, E4M3 keeps four. In return tensor cores multiply 8 bits, where they
know no numbers of 4, and activations are rounded to E4M3, for each token and 128 columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import pad

from aweigh_kernels.fp4_weight import Fp4Weight
from aweigh_kernels.fp8_weight import BLOCK, LARGEST, Fp8Activation, Fp8Weight
from aweigh_kernels.weight import Weight
from aweigh_runtime.formats.fp4_layout import Fp4Layout
from aweigh_runtime.formats.layout import Layout, Part, Quantization

_AT_ONCE = 1 << 24  # weights that are made dense at once
_SMALLEST = torch.finfo(torch.float32).tiny  # a scale: a block of zeros stays one


@dataclass(frozen=True, slots=True)
class ConvertedLayout:
    """NVFP4 that becomes FP8 when it is read."""

    stored: Fp4Layout
    item_bytes = 1  # of a weight, once it is read

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.stored.name}, brought to fp8 in blocks"

    def parts(self, rows: int, columns: int) -> dict[str, Part]:
        """Those of NVFP4."""
        return self.stored.parts(rows, columns)

    def read(self, parts: Mapping[str, torch.Tensor], rows: int, columns: int) -> Weight:
        """Read it and convert it."""
        return to_fp8_blocks(self.stored.read(parts, rows, columns))

    def write(self, weight: Weight) -> dict[str, torch.Tensor]:
        """A weight of NVFP4 as it was stored."""
        return self.stored.write(weight)


def to_fp8_blocks(weight: Fp4Weight) -> Fp8Weight:
    """The nearest E4M3 on the widest grid of each block that clips nothing."""
    rows, columns = weight.shape
    q = torch.empty(rows, columns, dtype=torch.float8_e4m3fn, device=weight.q.device)
    scales = []
    step = max(_AT_ONCE // columns // BLOCK, 1) * BLOCK
    for first in range(0, rows, step):
        dense = _rows(weight, slice(first, first + step)).dense()
        size = len(dense)
        dense = pad(dense, (0, -columns % BLOCK, 0, -size % BLOCK))
        blocks = dense.view(len(dense) // BLOCK, BLOCK, -1, BLOCK)
        scale = (blocks.abs().amax((1, 3)) / LARGEST).clamp_(min=_SMALLEST)
        scaled = (blocks / scale[:, None, :, None]).clamp_(-LARGEST, LARGEST)
        q[first : first + step] = scaled.view_as(dense)[:size, :columns].to(q.dtype)
        scales.append(scale)
    activation = Fp8Activation(rounding="group")
    return Fp8Weight(q=q, scale=torch.cat(scales), blocks=True, activation=activation)


def to_fp8(found: Quantization) -> Quantization:
    """A checkpoint whose NVFP4 matrices become FP8; what is stored otherwise stays so."""

    def layout_of(module: str) -> Layout | None:
        layout = found.layout_of(module)
        return ConvertedLayout(layout) if isinstance(layout, Fp4Layout) else layout

    description = f"{found.description}, brought to fp8 in blocks while loading"
    return replace(found, scheme="fp8", description=description, layout_of=layout_of)


def _rows(weight: Fp4Weight, part: slice) -> Fp4Weight:
    of_all = weight.global_scale
    return replace(
        weight,
        q=weight.q[part],
        scale=weight.scale[part],
        global_scale=of_all[part] if len(of_all) > 1 else of_all,
    )
