"""2:4: two of four are kept, the right ones, and what is left out is made up for."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aweigh_quantize.methods import sparse
from aweigh_quantize.methods.gptq import Options
from aweigh_quantize.methods.grid import Grid
from aweigh_quantize.methods.hessian import loss
from aweigh_quantize.methods.inputs import Inputs
from tests.quantize.matrices import correlated, weight


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 1 << 20),
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([4, 20, 40, -1]),
    sweeps=st.integers(0, 2),
)
def test_two_of_four_are_kept_whatever_the_weights(
    seed: int, bits: int, group: int, sweeps: int
) -> None:
    dense, grid = weight(6, 200, seed), Grid(bits=bits, group=group)
    dense[:, 8:12] = 0  # all four equal
    inputs = correlated(200, 200, seed)
    for found in (
        sparse.magnitude(dense, grid, "mse"),
        sparse.quantize(dense, inputs, grid, Options(sweeps=sweeps)),
    ):
        pairs = torch.unflatten(found.index, 1, (-1, 2)).int()
        assert (pairs[..., 0] < pairs[..., 1]).all()
        assert pairs.max() < 4
        assert (torch.unflatten((found.dense() != 0), 1, (-1, 4)).sum(-1) <= 2).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_outputs_are_nearer_than_with_the_largest_two(bits: int) -> None:
    dense, inputs, grid = weight(), correlated(), Grid(bits=bits)
    largest, chosen, refined = (
        float(loss(found.dense() - dense, inputs.hessian))
        for found in (
            sparse.magnitude(dense, grid),
            sparse.quantize(dense, inputs, grid, Options(sweeps=0)),
            sparse.quantize(dense, inputs, grid),
        )
    )
    assert refined < chosen < 0.5 * largest


def test_uncorrelated_inputs_keep_the_two_that_cost_most() -> None:
    inputs = Inputs(8)
    inputs.add(torch.eye(8).repeat(32, 1) * torch.arange(1.0, 9.0))
    dense = weight(64, 8)
    found = sparse.quantize(dense, inputs, Grid(bits=8, group=8), Options(damping=1e-6))
    costs = torch.unflatten((dense * torch.arange(1.0, 9.0)).abs(), 1, (-1, 4))
    best = costs.topk(2, -1).indices.sort(-1).values.flatten(1)
    assert torch.equal(found.index.long(), best)


def test_one_sweep_finds_the_best_of_all_masks_for_four_uncorrelated_weights() -> None:
    inputs = Inputs(4)
    inputs.add(torch.eye(4).repeat(64, 1))
    dense = weight(16, 4)
    found = sparse.quantize(dense, inputs, Grid(bits=8, group=4)).dense()
    for kept in itertools.combinations(range(4), 2):
        other = torch.zeros_like(dense)
        other[:, kept] = dense[:, kept]
        left = (other - dense).square().sum(1)
        assert ((found - dense).square().sum(1) <= left + 1e-5).all()


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (Grid(bits=3), "the grid has 3 bits; expected symmetric integers of 4 or 8 bits"),
        (Grid(bits=4, symmetric=False), "4 bits and zero points; expected symmetric"),
        (Grid(bits=4, group=2), "the group is 2; expected a multiple of 4"),
        (Grid(bits=4, group=48), r"the group is 48; expected a divisor of K \(256\)"),
    ],
)
def test_grids_that_sparse_weights_cannot_have_are_refused(grid: Grid, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sparse.magnitude(weight(), grid)
