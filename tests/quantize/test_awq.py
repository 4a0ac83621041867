"""AWQ and SmoothQuant: scaled columns lose less where inputs are large."""

import pytest
import torch
from torch.nn.functional import linear

from aweigh_kernels.int8_weight import Int8Activation, reference
from aweigh_quantize.methods import awq, rtn, smooth
from aweigh_quantize.methods.grid import Grid
from aweigh_quantize.methods.hessian import loss
from aweigh_quantize.methods.inputs import Inputs
from tests.quantize.matrices import correlated, weight

GRIDS = [Grid(bits=bits, symmetric=symmetric) for bits in (3, 4) for symmetric in (True, False)]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_scales_and_clips_each_bring_outputs_nearer(grid: Grid) -> None:
    dense, inputs = weight(), correlated()
    scales = awq.scales([dense], inputs, grid)
    clip = awq.clip(dense * scales, inputs.divided(scales), grid)
    nearest, scaled, clipped = (
        float(loss(found - dense, inputs.hessian))
        for found in (
            rtn.quantize(dense, grid).dense(),
            awq.quantize(dense * scales, grid).dense() / scales,
            awq.quantize(dense * scales, grid, clip).dense() / scales,
        )
    )
    assert clipped < scaled < nearest


def test_even_inputs_are_not_scaled() -> None:
    inputs = Inputs(64)
    inputs.add(torch.ones(128, 64))
    assert torch.equal(awq.scales([weight(8, 64)], inputs, Grid(bits=4, group=32)), torch.ones(64))


def test_scales_serve_all_matrices_that_meet_the_same_inputs() -> None:
    one, other, inputs, grid = weight(16), weight(32, seed=5), correlated(), Grid(bits=3)
    together = awq.scales([one, other], inputs, grid)
    assert torch.equal(together, awq.scales([torch.cat([one, other])], inputs, grid))


def outlying() -> Inputs:
    inputs = Inputs(256)
    x = torch.randn(512, 256, generator=torch.Generator().manual_seed(0))
    x[:, ::40] *= 50
    inputs.add(x)
    return inputs


def output_error(dense: torch.Tensor, inputs: Inputs, activation: Int8Activation) -> float:
    found = reference(inputs.rows, smooth.quantize(dense, activation=activation))
    return float((found - linear(inputs.rows, dense)).square().mean())


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_smooth_inputs_lose_less_in_8_bits(static: bool, symmetric: bool) -> None:
    dense, inputs = weight(), outlying()
    scales = smooth.scales([dense], inputs)
    smoothed = inputs.divided(scales)

    def activation(of: Inputs) -> Int8Activation:
        return smooth.activation(of, symmetric) if static else Int8Activation(symmetric=symmetric)

    rough = output_error(dense, inputs, activation(inputs))
    assert output_error(dense * scales, smoothed, activation(smoothed)) < 0.5 * rough


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_bytes_are_the_nearest(granularity: str) -> None:
    dense = weight()
    found = smooth.quantize(dense, granularity)  # type: ignore[arg-type]
    assert found.scale.shape == ((48, 1) if granularity == "channel" else (1, 1))
    assert ((found.dense() - dense).abs() <= found.scale * 0.5001).all()


def test_an_alpha_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"alpha is 1.5; expected 0 to 1"):
        smooth.scales([weight()], correlated(), 1.5)
