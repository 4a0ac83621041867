"""GPTQ and its refinement: less error than rounding, the same bits each time."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aweigh_quantize.methods import rtn
from aweigh_quantize.methods.gptq import Options, quantize
from aweigh_quantize.methods.grid import Grid, scales
from aweigh_quantize.methods.hessian import damped, factor, loss
from aweigh_quantize.methods.inputs import Inputs
from aweigh_quantize.methods.refinement import refine
from aweigh_quantize.methods.rounding import Rounding
from tests.quantize.matrices import correlated, weight

PAPER = Options(clip="none", sweeps=0, act_order=False, static_groups=False)
GRIDS = [
    Grid(bits=bits, group=group, symmetric=symmetric)
    for bits in (2, 4)
    for group in (32, 128, -1)
    for symmetric in (True, False)
]


def name(grid: Grid) -> str:
    return f"{grid.bits} bit g{grid.group}{'' if grid.symmetric else ' zeros'}"


@pytest.mark.parametrize("grid", GRIDS, ids=name)
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("static_groups", [False, True])
def test_outputs_are_nearer_than_with_rounding_to_nearest(
    grid: Grid, act_order: bool, static_groups: bool
) -> None:
    dense, inputs = weight(), correlated()
    nearest = loss(rtn.quantize(dense, grid).dense() - dense, inputs.hessian)
    options = Options(act_order=act_order, static_groups=static_groups)
    found = quantize(dense, inputs, grid, options)
    assert loss(found.dense() - dense, inputs.hessian) < 0.7 * nearest
    assert (found.perm is not None) == (act_order and not static_groups and grid.group != -1)


def test_the_paper_s_algorithm_is_better_than_rounding_and_ours_is_better_still() -> None:
    dense, inputs, grid = weight(), correlated(), Grid(bits=4)
    nearest, paper, ours = (
        float(loss(found.dense() - dense, inputs.hessian))
        for found in (
            rtn.quantize(dense, grid),
            quantize(dense, inputs, grid, PAPER),
            quantize(dense, inputs, grid),
        )
    )
    assert ours < paper < nearest


def textbook(dense: torch.Tensor, hessian: torch.Tensor, grid: Grid) -> torch.Tensor:
    """GPTQ as the paper writes it, in fp64, one column at a time, with static scales: [N, K]."""
    inverse = torch.linalg.inv(damped(hessian, 0.01).double())
    upper = torch.linalg.cholesky(inverse, upper=True)
    scale = scales(dense, grid)[0].double()
    left, found = dense.double().clone(), torch.zeros_like(dense).double()
    for column in range(dense.shape[1]):
        step = scale[:, column // grid.group]
        level = (left[:, column] / step).round().clamp(-grid.middle, grid.middle - 1)
        found[:, column] = level * step
        error = (left[:, column] - found[:, column]) / upper[column, column]
        left[:, column:] -= error[:, None] * upper[column, column:]
    return found


def test_without_refinement_it_is_the_paper_s_algorithm() -> None:
    dense, inputs, grid = weight(), correlated(), Grid(bits=4, group=64)
    options = Options(clip="none", sweeps=0, act_order=False)
    found = quantize(dense, inputs, grid, options).dense()
    expected = textbook(dense, inputs.hessian, grid).float()
    same = (found - expected).abs() < 1e-6
    # fp32 takes another side of a tie now and then, and all later columns of that row follow.
    assert same.float().mean() > 0.99


@pytest.mark.parametrize("block", [1, 16, 100, 1000])
def test_the_block_size_changes_nothing_but_rounding_of_arithmetic(block: int) -> None:
    dense, inputs, grid = weight(), correlated(), Grid(bits=4)
    found = quantize(dense, inputs, grid, Options(block=block, sweeps=0)).dense()
    expected = quantize(dense, inputs, grid, Options(sweeps=0)).dense()
    assert (found == expected).float().mean() > 0.99


@pytest.mark.parametrize("grid", GRIDS, ids=name)
def test_weights_on_the_grid_are_found_exactly(grid: Grid) -> None:
    on_grid = rtn.quantize(weight(), grid)
    dense = on_grid.dense()
    rounding = Rounding(dense, on_grid.scale, on_grid.zero, grid)
    for column in range(dense.shape[1]):
        rounding.round(column, rounding.columns[column])
    refine(rounding, damped(correlated().hessian, 0.01), 1)
    q, scale, _ = rounding.tensors()
    assert torch.equal(q, on_grid.q)
    assert torch.equal(scale, on_grid.scale)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 1 << 20),
    bits=st.sampled_from([2, 3, 4, 8]),
    group=st.sampled_from([8, 16, -1]),
    symmetric=st.booleans(),
    tokens=st.integers(128, 200),
)
def test_refinement_never_raises_the_loss(
    seed: int, bits: int, group: int, symmetric: bool, tokens: int
) -> None:
    grid = Grid(bits=bits, group=group, symmetric=symmetric)
    dense = weight(5, 160, seed)
    hessian = damped(correlated(160, tokens, seed).hessian, 0.01)
    rounding = Rounding(dense, *scales(dense, grid), grid)
    for column in range(160):
        rounding.round(column, rounding.columns[column])
    losses = [loss(rounding.errors.t(), hessian)]
    for _ in range(3):
        refine(rounding, hessian, 1)
        losses.append(loss(rounding.errors.t(), hessian))
    assert all(after <= before * (1 + 1e-5) for before, after in pairwise(losses))
    q, scale, zero = rounding.tensors()
    middle = grid.middle if zero is None else zero.float()
    levels = (
        torch.unflatten(q.float(), 1, (scale.shape[1], -1))
        - (middle if zero is None else zero.float()[..., None])
    ) * scale.float()[..., None]
    torch.testing.assert_close(dense - levels.flatten(1), rounding.errors.t(), atol=1e-5, rtol=0)


def test_a_refined_matrix_of_two_columns_is_where_no_single_step_helps() -> None:
    grid, inputs = Grid(bits=2, group=2), Inputs(2)
    inputs.add(torch.randn(256, 2, generator=torch.Generator().manual_seed(3)).cumsum(1))
    dense = weight(64, 2)
    found = quantize(dense, inputs, grid, Options(sweeps=20, damping=1e-6))
    hessian, scale = inputs.hessian, found.scale.float()

    def losses(q: torch.Tensor) -> torch.Tensor:
        errors = dense - (q.float() - 2) * scale
        return ((errors @ hessian) * errors).sum(1)

    best = losses(found.q)
    for column in range(2):
        for level in range(4):
            other = found.q.clone()
            other[:, column] = level
            assert (losses(other) >= best * (1 - 1e-3) - 1e-9).all()


def test_act_order_changes_where_columns_lie_and_not_what_they_mean() -> None:
    dense, inputs = weight(), correlated()
    found = quantize(dense, inputs, Grid(bits=8, group=32), Options(static_groups=False))
    assert found.perm is not None
    diagonal = inputs.hessian.diagonal()[found.perm]
    assert (diagonal.diff() <= 0).all()
    assert (found.dense() - dense).abs().max() < dense.abs().max() / 50


def test_the_same_matrix_gives_the_same_bits() -> None:
    one, other = (quantize(weight(), correlated(), Grid(bits=3)) for _ in range(2))
    assert torch.equal(one.q, other.q)
    assert torch.equal(one.scale, other.scale)


def test_inputs_that_are_always_zero_leave_their_columns_rounded_to_nearest() -> None:
    inputs = Inputs(64)
    x = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    x[:, 5] = 0
    inputs.add(x)
    found = quantize(weight(16, 64), inputs, Grid(bits=4, group=32), PAPER)
    scale = found.scale[:, 0].float()
    expected = (weight(16, 64)[:, 5] / scale).round().clamp(-8, 7) + 8
    assert torch.equal(found.q[:, 5].float(), expected)


def test_the_factor_times_itself_is_the_hessian() -> None:
    hessian = damped(correlated().hessian, 0.01)
    upper = factor(correlated().hessian, 0.01)
    assert torch.equal(upper, upper.triu())
    torch.testing.assert_close(upper @ upper.t(), hessian, rtol=1e-3, atol=1e-2)


def test_what_is_no_matrix_of_second_moments_is_refused() -> None:
    with pytest.raises(ValueError, match="not positive definite"):
        factor(-1e9 * torch.eye(4) + torch.eye(4).flip(0) * torch.nan, 0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("tokens", "calibration saw 64 tokens; expected at least 128: give more or longer texts"),
        ("nan", "the weight holds numbers that are not finite; expected finite ones"),
        ("group", r"the group is 96; expected a divisor of K \(256\)"),
        ("width", r"the weight is \[48, 128\]; expected \[N, 256\]"),
    ],
)
def test_what_cannot_be_quantized_is_refused(change: str, message: str) -> None:
    dense = weight(48, 128 if change == "width" else 256)
    if change == "nan":
        dense[3, 4] = torch.nan
    inputs = correlated(num_tokens=64 if change == "tokens" else 256)
    with pytest.raises(ValueError, match=message):
        quantize(dense, inputs, Grid(bits=4, group=96 if change == "group" else 128))


@pytest.mark.parametrize("options", [{"damping": 0.0}, {"sweeps": -1}, {"block": 0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Options(**options)  # type: ignore[arg-type]
