"""Quantizes matrices while a dense checkpoint is loaded: no calibration, one scale for each row.

Activations get a scale for each token. Rounding to nearest on the widest grid that clips nothing:
with 8 bits searching for a narrower one gains next to nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from aweigh_api.number_formats import SchemeName
from aweigh_kernels.fp8_weight import LARGEST, Fp8Activation, Fp8Weight
from aweigh_kernels.int8_weight import Int8Weight
from aweigh_kernels.weight import Weight
from aweigh_runtime.formats.layout import FLOATS, Layout, LayoutError, Part, Quantization
from aweigh_runtime.formats.modules import in_layer, is_router

_AT_ONCE = 1 << 20  # weights, which as fp32 stay in a CPU's cache
_SMALLEST = torch.finfo(torch.float32).tiny  # a scale: a row of zeros stays one


def to_fp8(weight: torch.Tensor) -> Fp8Weight:
    """A matrix in E4M3.

    Args:
        weight: [N, K], bf16, fp16 or fp32.

    Raises:
        LayoutError: it holds numbers that are not finite.
    """
    q = torch.empty(weight.shape, dtype=torch.float8_e4m3fn, device=weight.device)
    scale = _scales(weight, LARGEST)
    for rows in _slices(weight):
        q[rows] = _divided(weight[rows], scale[rows]).clamp_(-LARGEST, LARGEST).to(q.dtype)
    return Fp8Weight(q=q, scale=scale, activation=Fp8Activation(rounding="token"))


def to_int8(weight: torch.Tensor) -> Int8Weight:
    """A matrix in bytes, symmetric.

    Args:
        weight: [N, K], bf16, fp16 or fp32.

    Raises:
        LayoutError: it holds numbers that are not finite.
    """
    q = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scale = _scales(weight, 127)
    for rows in _slices(weight):
        q[rows] = _divided(weight[rows], scale[rows]).round_().clamp_(-127, 127).to(q.dtype)
    return Int8Weight(q=q, scale=scale)


@dataclass(frozen=True, slots=True)
class OnlineLayout:
    """A dense matrix that is quantized when it is read."""

    name: str
    quantize: Callable[[torch.Tensor], Weight]
    item_bytes: float = 1  # of a quantized weight; its share of a scale, where many have them

    def parts(self, rows: int, columns: int) -> dict[str, Part]:
        """The dense tensor."""
        return {"weight": Part(((rows, columns),), FLOATS)}

    def read(self, parts: Mapping[str, torch.Tensor], rows: int, columns: int) -> Weight:
        """Quantize it."""
        del rows, columns
        return self.quantize(parts["weight"])

    def write(self, weight: Weight) -> dict[str, torch.Tensor]:
        """The dense tensor again, rounded as the weight is."""
        return {"weight": weight.dense()}


Scheme = Literal["fp8", "int8"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
_LAYOUTS: dict[Scheme, OnlineLayout] = {
    "fp8": OnlineLayout("fp8, quantized while loading", to_fp8),
    "int8": OnlineLayout("int8, quantized while loading", to_int8),
}


def quantization(scheme: Scheme) -> Quantization:
    """Of a dense checkpoint: every matrix of the layers; routers and the head stay dense.

    Args:
        scheme: one of SCHEMES.
    """
    return of_layers(scheme, _LAYOUTS[scheme])


def of_layers(scheme: SchemeName, layout: OnlineLayout) -> Quantization:
    """The same with any layout."""

    def layout_of(module: str) -> Layout | None:
        return layout if in_layer(module) and not is_router(module) else None

    return Quantization(scheme=scheme, description=layout.name, layout_of=layout_of)


def _scales(weight: torch.Tensor, largest: float) -> torch.Tensor:
    """[N, 1], fp32: what makes the largest number of each row the largest of the format."""
    widest = torch.cat([weight[rows].abs().amax(1, keepdim=True) for rows in _slices(weight)])
    num_broken = int((~torch.isfinite(widest)).sum())
    if num_broken:
        raise LayoutError(
            f"{num_broken} rows of {len(weight)} hold numbers that are not finite; copy the model "
            "again"
        )
    return widest.float().div_(largest).clamp_(min=_SMALLEST)


def _divided(rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """In fp32. In place, of a copy: torch divides numbers of two formats half as fast."""
    return rows.to(torch.float32, copy=True).div_(scale)


def _slices(weight: torch.Tensor) -> list[slice]:
    step = max(_AT_ONCE // weight.shape[1], 1)
    return [slice(first, first + step) for first in range(0, len(weight), step)]
