"""8-bit floating point, with a scale for the matrix, each row, or each block of 128 by 128."""

from typing import Literal

import torch

from aweigh_kernels.fp8_weight import BLOCK, LARGEST, Fp8Activation, Fp8Weight
from aweigh_quantize.methods.gptq import Options, prepared
from aweigh_quantize.methods.grid import Clip, expect_weight
from aweigh_quantize.methods.hessian import by_importance, compensate
from aweigh_quantize.methods.inputs import Inputs

Granularity = Literal["tensor", "channel", "block"]
_SHARES = [1 - step / 32 for step in range(17)]  # of the range, that a search tries


def quantize(
    weight: torch.Tensor,
    granularity: Granularity = "channel",
    activation: Fp8Activation | None = None,
    clip: Clip = "none",
    *,
    inputs: Inputs | None = None,
    dtype: torch.dtype = torch.float8_e4m3fn,
) -> Fp8Weight:
    """A matrix of 8-bit floating point numbers.

    Args:
        weight: [N, K], floating point.
        granularity: what shares a scale.
        activation: how x is rounded; None: it is not.
        clip: `none`: the largest magnitude becomes the largest number. `mse`: a smaller one where
            that lowers the squared error; it also moves where between powers of two weights lie.
        inputs: what calibration knows of x, [K]: later columns make up for the errors of earlier
            ones, as in GPTQ; None: each weight is rounded to the nearest.
        dtype: float8_e4m3fn or float8_e5m2.

    Raises:
        ValueError: weights are not finite, or tokens too few.
    """
    expect_weight(weight)
    parts = _parts(weight.float(), granularity)
    scale = _scales(parts, clip, dtype)
    if inputs is None:
        q = _whole(_rounded(parts, scale, dtype).float(), granularity, weight.shape).to(dtype)
    else:
        spread_out = _whole(scale.expand_as(parts), granularity, weight.shape)
        q = _compensated(weight, spread_out, inputs, dtype)
    return Fp8Weight(
        q=q,
        scale=scale[:, 0, :, 0],
        blocks=granularity == "block",
        activation=activation,
    )


def activation(inputs: Inputs) -> Fp8Activation:
    """One scale for all tokens: the largest magnitude seen becomes the largest number.

    Raises:
        ValueError: tokens too few.
    """
    inputs.expect_enough()
    tiny = torch.finfo(torch.float32).tiny
    return Fp8Activation(
        rounding="static", scale=inputs.max_abs.amax().div(LARGEST).clamp_(min=tiny)
    )


def _compensated(
    weight: torch.Tensor, scale: torch.Tensor, inputs: Inputs, dtype: torch.dtype
) -> torch.Tensor:
    """[N, K] by scales [N, K]."""
    weight, hessian = prepared(weight, inputs), inputs.hessian
    columns, scales = weight.t().contiguous(), scale.t().contiguous()
    q = torch.empty_like(columns)

    def round(column: int, values: torch.Tensor) -> torch.Tensor:
        q[column] = _rounded(values, scales[column], dtype).float()
        return q[column] * scales[column]

    compensate(columns, hessian, Options().damping, by_importance(hessian), round)
    return q.t().contiguous().to(dtype)


def _parts(weight: torch.Tensor, granularity: Granularity) -> torch.Tensor:
    """[N/rows, rows, K/columns, columns]: dimensions 1 and 3 share a scale."""
    rows, columns = weight.shape
    if granularity == "tensor":
        return weight.view(1, rows, 1, columns)
    if granularity == "channel":
        return weight.view(rows, 1, 1, columns)
    filled = torch.nn.functional.pad(weight, (0, -columns % BLOCK, 0, -rows % BLOCK))
    return filled.view(len(filled) // BLOCK, BLOCK, -1, BLOCK)


def _whole(parts: torch.Tensor, granularity: Granularity, shape: torch.Size) -> torch.Tensor:
    if granularity != "block":
        return parts.reshape(shape)
    rows, columns = shape
    return parts.flatten(2).flatten(0, 1)[:rows, :columns].contiguous()


def _scales(parts: torch.Tensor, clip: Clip, dtype: torch.dtype) -> torch.Tensor:
    """As parts, with 1 for what shares one."""
    limits = torch.finfo(torch.float32)
    largest = parts.abs().amax((1, 3), keepdim=True).div_(torch.finfo(dtype).max)
    best = largest.clamp(min=limits.tiny)
    if clip == "none":
        return best
    least = torch.full_like(best, torch.inf)
    for share in _SHARES:
        scale = (largest * share).clamp_(min=limits.tiny)
        errors = _rounded(parts, scale, dtype).float().mul_(scale).sub_(parts)
        lost = errors.square_().sum((1, 3), keepdim=True)
        best = torch.where(lost < least, scale, best)
        least = torch.minimum(least, lost)
    return best


def _rounded(parts: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    largest = torch.finfo(dtype).max
    return (parts / scale).clamp_(-largest, largest).to(dtype)
