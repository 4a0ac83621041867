"""How checkpoints store quantized matrices: what every format says of itself."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch

from aweigh_kernels.weight import Weight

ITEM_BYTES = {"F32": 4, "I32": 4, "I64": 8, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1}
ITEM_BYTES |= {"F8_E4M3": 1, "F8_E5M2": 1}
FLOATS = ("F16", "BF16", "F32")


class LayoutError(ValueError):
    """Stored tensors contradict each other or the format; the message says how."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of the tensors that store a matrix."""

    shapes: tuple[tuple[int, ...], ...]  # any of them; the first is what we write
    dtypes: tuple[str, ...]  # as safetensors names them; the first is what we write
    optional: bool = False

    @property
    def num_bytes(self) -> int:
        """What we write takes so many."""
        return math.prod(self.shapes[0]) * ITEM_BYTES[self.dtypes[0]]


class Layout(Protocol):
    """How one matrix [N, K] is stored: y = x Wᵀ with N outputs and K inputs."""

    @property
    def name(self) -> str:
        """For people: `gptq 4 bit, groups of 128, act order`."""
        ...

    def parts(self, rows: int, columns: int) -> dict[str, Part]:
        """Its tensors, by what stands behind the module's name and a dot: `qweight`.

        Raises:
            LayoutError: a matrix of this shape cannot be stored so.
        """
        ...

    def read(self, parts: Mapping[str, torch.Tensor], rows: int, columns: int) -> Weight:
        """What stored tensors mean. Shapes and number formats are those that `parts` allows.

        Raises:
            LayoutError: values that no such file has: scales that are not finite or are 0 with
                weights behind them, groups or zero points out of range.
        """
        ...

    def write(self, weight: Weight) -> dict[str, torch.Tensor]:
        """The tensors that `read` makes the same weight of.

        Raises:
            LayoutError: the format cannot hold it.
        """
        ...


def _dense(module: str) -> Layout | None:
    del module
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """What a checkpoint says of its weights."""

    scheme: str  # as the InferenceService names it: gptq, awq, fp8, int8, int4, nvfp4, marlin24
    description: str  # for people, with the checkpoint's own words
    layout_of: Callable[[str], Layout | None] = field(default=_dense)
    """By the module's name in the checkpoint, without `.weight`; None: it is stored dense."""
    kv_cache_scheme: str | None = (
        None  # fp8, where the checkpoint was made for such keys and values
    )
