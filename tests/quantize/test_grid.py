"""Grids, their scales, and rounding to nearest."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aweigh_quantize.methods import rtn
from aweigh_quantize.methods.grid import Grid, scales
from tests.quantize.matrices import weight


def test_a_symmetric_scale_reaches_half_a_step_beyond_the_positive_integers() -> None:
    dense = torch.tensor([[7.5, -3.0, 1.0, 0.0]])
    scale, zero = scales(dense, Grid(bits=4, group=4))
    assert zero is None
    assert scale.tolist() == [[1.0]]
    assert rtn.quantize(dense, Grid(bits=4, group=4)).dense().tolist() == [[7.0, -3.0, 1.0, 0.0]]


def test_a_zero_point_lets_a_one_sided_group_use_all_integers() -> None:
    dense = torch.arange(16.0)[None] * 0.5
    found = rtn.quantize(dense, Grid(bits=4, group=16, symmetric=False))
    assert torch.equal(found.dense(), dense)
    assert len(set(found.q.flatten().tolist())) == 16


@settings(deadline=None)
@given(
    seed=st.integers(0, 1 << 20),
    bits=st.sampled_from([2, 3, 4, 8]),
    group=st.sampled_from([4, 8, 32, -1]),
    symmetric=st.booleans(),
    clipped=st.booleans(),
)
def test_no_weight_within_the_range_moves_by_more_than_half_a_step(
    seed: int, bits: int, group: int, symmetric: bool, clipped: bool
) -> None:
    grid = Grid(bits=bits, group=group, symmetric=symmetric, dtype=torch.float32)
    dense = weight(6, 64, seed)
    found = rtn.quantize(dense, grid, "mse" if clipped else "none")
    steps = found.scale.repeat_interleave(found.group, 1)
    inside = (found.q > 0) & (found.q < grid.most)
    moved = (found.dense() - dense).abs()
    assert (moved <= steps * 0.5001)[inside].all()
    if not clipped:
        assert (moved <= steps * (0.5001 if symmetric else 1.0001)).all()


@given(seed=st.integers(0, 1 << 20), bits=st.sampled_from([2, 3, 4]), symmetric=st.booleans())
def test_a_clip_search_never_raises_the_squared_error_it_minimises(
    seed: int, bits: int, symmetric: bool
) -> None:
    dense, grid = weight(6, 64, seed), Grid(bits=bits, group=16, symmetric=symmetric)
    none, mse = (
        torch.unflatten(
            (rtn.quantize(dense, grid, clip).dense() - dense).square(), 1, (-1, 16)
        ).sum(-1)
        for clip in ("none", "mse")
    )
    assert (mse <= none * (1 + 1e-5)).all()


def test_columns_that_count_more_are_rounded_better() -> None:
    dense, grid = weight(32, 64), Grid(bits=3, group=64)
    importance = torch.where(torch.arange(64) < 8, 100.0, 1.0)
    errors = []
    for counts in (None, importance):
        scale, _ = scales(dense, grid, "mse", counts)
        q = (dense / scale.float()).round().clamp(-4, 3)
        errors.append((q * scale.float() - dense)[:, :8].square().sum())
    assert errors[1] < errors[0]


def test_groups_of_zeros_have_a_scale_above_zero_and_stay_zeros() -> None:
    for symmetric in (True, False):
        found = rtn.quantize(torch.zeros(2, 8), Grid(bits=4, group=4, symmetric=symmetric), "mse")
        assert (found.scale > 0).all()
        assert not found.dense().any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 5}, r"bits is 5; expected one of \(2, 3, 4, 8\)"),
        ({"bits": 4, "group": 0}, "the group is 0; expected 1 or more, or -1 for a row"),
    ],
)
def test_grids_that_do_not_exist_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grid(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dense", "message"),
    [
        (torch.zeros(2, 6), r"the group is 4; expected a divisor of K \(6\)"),
        (torch.full((2, 8), torch.inf), "numbers that are not finite"),
        (torch.zeros(0, 8), r"the weight is \[0, 8\]; expected \[N, K\]"),
    ],
)
def test_what_no_grid_fits_is_refused(dense: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rtn.quantize(dense, Grid(bits=4, group=4))
