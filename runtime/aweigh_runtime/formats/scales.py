"""Refuses scales that no checkpoint has on purpose. It changes none."""

from dataclasses import replace

import torch

from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.sparse_int_weight import SparseIntWeight
from aweigh_runtime.formats.layout import LayoutError


def expect_scales(name: str, weight: IntWeight | SparseIntWeight) -> None:
    """Refuse scales that are not finite, and zeros that would wipe out weights.

    A scale of 0 is a number format's underflow, unless all weights behind it are 0.

    Raises:
        LayoutError: names the stored tensor, `name`.
    """
    scale = weight.scale
    if not bool(torch.isfinite(scale).all()):
        raise LayoutError(
            f"{name} holds NaN or infinity; expected finite scales: quantize the model again"
        )
    vanished = scale == 0
    if bool(vanished.any()) and bool(replace(weight, scale=vanished.to(scale.dtype)).dense().any()):
        raise LayoutError(
            f"{name} holds 0 where the weights are not 0; expected scales of another number "
            "format or a larger group: quantize the model again"
        )
