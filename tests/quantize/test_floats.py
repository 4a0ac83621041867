"""8-bit and 4-bit floating point: each number the nearest, each scale the best of those tried."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aweigh_kernels.fp4_weight import Fp4Weight, values
from aweigh_kernels.fp8_weight import Fp8Activation, Fp8Weight
from aweigh_quantize.methods import fp4, fp8
from aweigh_quantize.methods.hessian import loss
from aweigh_quantize.methods.inputs import Inputs
from tests.quantize.matrices import correlated, weight

SHAPES = {"tensor": (1, 1), "channel": (200, 1), "block": (2, 3)}


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("granularity", SHAPES)
def test_what_shares_a_scale_loses_a_share_of_each_number(
    granularity: fp8.Granularity, dtype: torch.dtype
) -> None:
    dense = weight(200, 300)
    found = fp8.quantize(dense, granularity, dtype=dtype)
    assert found.scale.shape == SHAPES[granularity]
    relative = torch.finfo(dtype).eps / 2
    smallest = torch.finfo(dtype).smallest_normal * relative
    scale = found.scale.repeat_interleave(128, 0)[:200] if found.blocks else found.scale
    scale = scale.repeat_interleave(128, 1)[:, :300] if found.blocks else scale
    allowed = dense.abs() * relative * 1.001 + scale * smallest
    assert ((found.dense() - dense).abs() <= allowed).all()


@pytest.mark.parametrize("granularity", SHAPES)
def test_a_search_for_the_scale_never_raises_the_squared_error(
    granularity: fp8.Granularity,
) -> None:
    dense = weight(200, 300)
    none, mse = (
        (fp8.quantize(dense, granularity, clip=clip).dense() - dense).square().sum()
        for clip in ("none", "mse")
    )
    assert mse <= none
    assert granularity == "tensor" or mse < none


def test_static_activations_reach_up_to_the_largest_input() -> None:
    inputs = correlated()
    activation = fp8.activation(inputs)
    assert activation.rounding == "static"
    found = fp8.quantize(weight(), activation=activation)
    seen = found.rounded(inputs.rows)
    torch.testing.assert_close(seen.abs().max(), inputs.max_abs.max())
    assert fp8.quantize(weight()).activation is None
    token = Fp8Activation(rounding="token")
    assert fp8.quantize(weight(), activation=token).activation is token


@given(seed=st.integers(0, 1 << 20), size=st.floats(1e-6, 1e6))
def test_both_conventions_of_the_global_scale_mean_the_same(seed: int, size: float) -> None:
    dense = weight(4, 32, seed) * size
    found = fp4.quantize(dense)
    inverse = 1 / found.global_scale
    assert inverse.float().double() == inverse
    scale = found.scale.float()
    multiplied = scale * found.global_scale.float()
    divided = scale / inverse.float()
    assert torch.equal(multiplied, divided)
    groups = torch.unflatten(values(found.q), 1, (-1, 16)) * divided[..., None]
    assert torch.equal(groups.flatten(1), found.dense())
    assert (found.dense() - dense).abs().max() <= dense.abs().max() / 4


@given(seed=st.integers(0, 1 << 20))
def test_a_search_for_scales_never_raises_a_group_s_squared_error(seed: int) -> None:
    dense = weight(8, 64, seed)
    none, mse = (
        torch.unflatten((fp4.quantize(dense, clip=clip).dense() - dense).square(), 1, (-1, 16)).sum(
            -1
        )
        for clip in ("none", "mse")
    )
    assert (mse <= none * (1 + 1e-5)).all()


def test_zeros_stay_zeros() -> None:
    dense = torch.zeros(128, 128)
    assert not fp4.quantize(dense).dense().any()
    for granularity in SHAPES:
        assert not fp8.quantize(dense, granularity, clip="mse").dense().any()  # type: ignore[arg-type]


def test_activations_of_4_bits_have_a_scale_for_the_largest_input() -> None:
    inputs = correlated()
    found = fp4.quantize(weight(), fp4.activation_scale(inputs))
    assert found.activation_scale is not None
    assert found.activation_scale * 6 * 448 >= inputs.max_abs.max()
    seen = found.rounded(inputs.rows)
    assert (seen - inputs.rows).square().mean() < inputs.rows.square().mean() / 50


def test_what_cannot_be_quantized_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the weight is \[48, 24\]; expected K a multiple of 16"):
        fp4.quantize(weight(columns=24))
    with pytest.raises(ValueError, match="not finite"):
        fp8.quantize(torch.full((4, 4), torch.nan))
    with pytest.raises(ValueError, match="calibration saw 0 tokens"):
        fp8.activation(Inputs(4))


@pytest.mark.parametrize("granularity", SHAPES)
def test_later_columns_make_up_for_the_errors_of_earlier_ones(
    granularity: fp8.Granularity,
) -> None:
    dense, inputs = weight(200, 256), correlated()
    nearest = fp8.quantize(dense, granularity, clip="mse")
    made_up = fp8.quantize(dense, granularity, clip="mse", inputs=inputs)
    assert torch.equal(nearest.scale, made_up.scale)
    assert _loss(made_up, dense, inputs) < 0.7 * _loss(nearest, dense, inputs)


def test_so_they_do_in_4_bits() -> None:
    dense, inputs = weight(), correlated()
    nearest, made_up = fp4.quantize(dense), fp4.quantize(dense, inputs=inputs)
    assert torch.equal(nearest.scale.float(), made_up.scale.float())
    assert _loss(made_up, dense, inputs) < 0.7 * _loss(nearest, dense, inputs)


def _loss(found: Fp8Weight | Fp4Weight, dense: torch.Tensor, inputs: Inputs) -> float:
    return float(loss(found.dense() - dense, inputs.hessian))
