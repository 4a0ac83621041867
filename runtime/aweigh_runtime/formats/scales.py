"""Scales as checkpoints store them: their shapes, and which values no such file has."""

from dataclasses import replace

import torch

from aweigh_kernels.weight import Weight
from aweigh_runtime.formats.layout import LayoutError

ONE = ((1,), (), (1, 1))  # shapes of a scale for all


def per_row(rows: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of a scale for each row."""
    return (rows, 1), (rows,)


def scalar(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A scale of activations, keys or values, or a global one: [], of its own number format.

    Raises:
        LayoutError: it is not one finite number above 0.
    """
    if tensor.numel() != 1:
        raise LayoutError(f"{name} has {tensor.numel()} numbers; expected 1")
    value = tensor.reshape(())
    if not (torch.isfinite(value) and value > 0):
        raise LayoutError(f"{name} is {value.item():g}; expected a finite number above 0")
    return value


def expect_scales(name: str, weight: Weight) -> None:
    """Refuse scales that are not finite, and zeros that would wipe out weights.

    Raises:
        LayoutError: names the stored tensor, `name`.
    """
    scale = weight.scale.float()
    if not bool(torch.isfinite(scale).all()):
        raise LayoutError(
            f"{name} holds NaN or infinity; expected finite scales: quantize the model again"
        )
    vanished = scale == 0
    if bool(vanished.any()) and bool(_only(weight, vanished).dense().any()):
        raise LayoutError(
            f"{name} holds 0 where the weights are not 0; expected scales of another number "
            "format or a larger group: quantize the model again"
        )


def _only(weight: Weight, places: torch.Tensor) -> Weight:
    """What the weight would be with a scale of 1 in these places, and of 0 elsewhere."""
    return replace(weight, scale=places.to(weight.scale.dtype))
