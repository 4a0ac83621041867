"""NVFP4: 4-bit floating point with an E4M3 scale for 16 columns and one scale for all.

The scale for all is a power of two, so that files that hold it and files that hold its inverse mean
the same to the last bit.
"""

import torch

from aweigh_kernels.fp4_weight import GROUP, LARGEST, Fp4Weight, nearest, values
from aweigh_quantize.methods.gptq import Options, prepared
from aweigh_quantize.methods.grid import Clip, expect_weight
from aweigh_quantize.methods.hessian import by_importance, compensate
from aweigh_quantize.methods.inputs import Inputs

_LARGEST_SCALE = torch.finfo(torch.float8_e4m3fn).max
_SMALLEST_SCALE = 2.0**-9  # above 0
_SHARES = [1.5 - step / 16 for step in range(15)]  # of a group's range, that a search tries:
# at 1.5 the largest weight becomes 4, below which numbers lie twice as near as below 6


def quantize(
    weight: torch.Tensor,
    activation: torch.Tensor | None = None,
    clip: Clip = "mse",
    *,
    inputs: Inputs | None = None,
) -> Fp4Weight:
    """A matrix of 4-bit floating point numbers.

    Args:
        weight: [N, K], floating point, K a multiple of 16.
        activation: what `activation_scale` gives, for 4-bit activations; None: they keep 16 bits.
        clip: `none`: the largest weight of a group becomes 6. `mse`: whatever scale lowers the
            group's squared error.
        inputs: what calibration knows of x, [K]: later columns make up for the errors of earlier
            ones, as in GPTQ; None: each weight is rounded to the nearest.

    Raises:
        ValueError: K is no multiple of 16, weights are not finite, or tokens too few.
    """
    expect_weight(weight)
    if weight.shape[1] % GROUP:
        raise ValueError(f"the weight is {list(weight.shape)}; expected K a multiple of {GROUP}")
    groups = torch.unflatten(weight.float(), 1, (-1, GROUP))  # [N, K/16, 16]
    global_scale = _global_scale(weight.abs().amax())
    scale = _scales(groups, global_scale, clip)
    wide = (scale.double() * global_scale).float()[..., None]
    q = nearest(groups / wide).flatten(1)
    if inputs is not None:
        q = _compensated(weight, wide.expand_as(groups).flatten(1), inputs)
    return Fp4Weight(
        q=q,
        scale=scale,
        global_scale=global_scale.view(1, 1),
        activation_scale=activation,
    )


def _compensated(weight: torch.Tensor, scale: torch.Tensor, inputs: Inputs) -> torch.Tensor:
    """Codes [N, K] by scales [N, K]."""
    weight, hessian = prepared(weight, inputs), inputs.hessian
    columns, scales = weight.t().contiguous(), scale.t().contiguous()
    codes = torch.empty(columns.shape, dtype=torch.uint8, device=columns.device)

    def round(column: int, wanted: torch.Tensor) -> torch.Tensor:
        codes[column] = nearest(wanted / scales[column])
        return values(codes[column]).mul_(scales[column])

    compensate(columns, hessian, Options().damping, by_importance(hessian), round)
    return codes.t().contiguous()


def activation_scale(inputs: Inputs) -> torch.Tensor:
    """The scale for all activations, [], fp64, from the largest magnitude seen.

    Raises:
        ValueError: tokens too few.
    """
    inputs.expect_enough()
    return _global_scale(inputs.max_abs.amax())


def _global_scale(largest: torch.Tensor) -> torch.Tensor:
    """The power of two with which the largest group's scale just fits E4M3."""
    wanted = largest.double() / (LARGEST * _LARGEST_SCALE)
    exponent = wanted.clamp(min=torch.finfo(torch.float32).tiny).log2().ceil()
    return torch.exp2(exponent)


def _scales(groups: torch.Tensor, global_scale: torch.Tensor, clip: Clip) -> torch.Tensor:
    """[N, K/16], E4M3, above 0."""
    wanted = (groups.abs().amax(-1).double() / LARGEST / global_scale).float()
    best = _storable(wanted)
    if clip == "none":
        return best.to(torch.float8_e4m3fn)
    least = torch.full_like(wanted, torch.inf)
    for share in _SHARES:
        scale = _storable(wanted * share)
        wide = (scale.double() * global_scale).float()[..., None]
        lost = values(nearest(groups / wide)).mul_(wide).sub_(groups).square_().sum(-1)
        best = torch.where(lost < least, scale, best)
        least = torch.minimum(least, lost)
    return best.to(torch.float8_e4m3fn)


def _storable(scale: torch.Tensor) -> torch.Tensor:
    """Rounded to E4M3, in fp32."""
    return scale.clamp(_SMALLEST_SCALE, _LARGEST_SCALE).to(torch.float8_e4m3fn).float()
