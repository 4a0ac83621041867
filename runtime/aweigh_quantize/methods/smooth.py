"""SmoothQuant (Xiao et al. 2022): 8-bit weights and activations, outliers shared between both."""

from collections.abc import Sequence
from typing import Literal

import torch

from aweigh_kernels.int8_weight import Int8Activation, Int8Weight
from aweigh_quantize.methods.grid import WHOLE_ROW, Clip, Grid, expect_weight
from aweigh_quantize.methods.inputs import Inputs
from aweigh_quantize.methods.rtn import quantize as nearest

_GRID = Grid(bits=8, group=WHOLE_ROW, dtype=torch.float32)
_LOWEST, _HIGHEST = -128, 127
_SMALLEST = 1e-5  # of magnitudes: a column that is nearly 0 is not scaled without bound


def scales(weights: Sequence[torch.Tensor], inputs: Inputs, alpha: float = 0.5) -> torch.Tensor:
    """What columns are multiplied with, and x is divided by, so that both are easy to round.

    Args:
        weights: [N, K] each, floating point, of all matrices that the same x meets.
        inputs: of x.
        alpha: how much of the outliers goes into the weights, from 0 to 1.

    Returns:
        [K], fp32, positive.

    Raises:
        ValueError: alpha is out of range, weights are not finite, or tokens too few.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; expected 0 to 1")
    inputs.expect_enough()
    for weight in weights:
        expect_weight(weight)
    largest = torch.stack([weight.float().abs().amax(0) for weight in weights]).amax(0)
    met = inputs.max_abs.clamp(min=_SMALLEST)
    return met.pow(alpha).div_(largest.clamp_(min=_SMALLEST).pow_(1 - alpha))


def activation(inputs: Inputs, symmetric: bool = True) -> Int8Activation:
    """One scale for all tokens, from the range of those seen.

    Raises:
        ValueError: tokens too few.
    """
    inputs.expect_enough()
    tiny = torch.finfo(torch.float32).tiny
    if symmetric:
        return Int8Activation(scale=inputs.max_abs.amax().div(_HIGHEST).clamp_(min=tiny))
    low, high = inputs.low.amin().clamp(max=0), inputs.high.amax().clamp(min=0)
    scale = high.sub(low).div_(_HIGHEST - _LOWEST).clamp_(min=tiny)
    zero = (_LOWEST - low / scale).round_().clamp_(_LOWEST, _HIGHEST)
    return Int8Activation(symmetric=False, scale=scale, zero=zero.to(torch.int32))


def quantize(
    weight: torch.Tensor,
    granularity: Literal["tensor", "channel"] = "channel",
    activation: Int8Activation | None = None,
    clip: Clip = "none",
) -> Int8Weight:
    """A matrix of bytes.

    Args:
        weight: [N, K], floating point, already scaled.
        granularity: one scale for all of it or for each row.
        activation: how x is rounded; None: each token by its own range.
        clip: whether to clip where that lowers the squared error.

    Raises:
        ValueError: weights are not finite.
    """
    expect_weight(weight)
    wide = weight.float()
    found = nearest(wide if granularity == "channel" else wide.reshape(1, -1), _GRID, clip)
    q = found.q.view(torch.int8).bitwise_xor(_LOWEST).view(weight.shape)  # q - 128
    return Int8Weight(q=q, scale=found.scale, activation=activation or Int8Activation())
