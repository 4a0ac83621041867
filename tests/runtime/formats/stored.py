"""What a loader does with a layout, without files: checks parts, then reads them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from aweigh_kernels.weight import Weight
from aweigh_runtime.fields import Fields
from aweigh_runtime.formats.layout import Layout

DTYPES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int8: "I8", torch.uint8: "U8", torch.int32: "I32", torch.int64: "I64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip


def fields(**values: Any) -> Fields:
    """A quantization_config."""
    return Fields(Path("config.json"), values)


def expect_parts(layout: Layout, tensors: Mapping[str, torch.Tensor], shape: list[int]) -> None:
    """Every tensor is one that the layout asks for, and none is missing."""
    parts = layout.parts(*shape)
    assert set(tensors) <= set(parts)
    assert {name for name, part in parts.items() if not part.optional} <= set(tensors)
    for name, tensor in tensors.items():
        assert tuple(tensor.shape) in parts[name].shapes, (name, tensor.shape)
        assert DTYPES[tensor.dtype] in parts[name].dtypes, (name, tensor.dtype)


def read(layout: Layout, tensors: Mapping[str, torch.Tensor], *shape: int) -> Weight:
    """What a loader makes of stored tensors."""
    expect_parts(layout, tensors, list(shape))
    return layout.read(tensors, *shape)


def written(layout: Layout, weight: Weight) -> dict[str, torch.Tensor]:
    """What a writer stores: all of it in the first shape and of the size that parts say."""
    tensors = layout.write(weight)
    expect_parts(layout, tensors, list(weight.shape))
    parts = layout.parts(*weight.shape)
    for name, tensor in tensors.items():
        assert tuple(tensor.shape) == parts[name].shapes[0], name
        assert tensor.is_contiguous(), name
    return tensors


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal to the last bit, signs of zeros included."""
    return one.dtype == other.dtype and torch.equal(
        one.flatten().view(torch.uint8), other.flatten().view(torch.uint8)
    )
