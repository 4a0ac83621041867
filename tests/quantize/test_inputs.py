"""What calibration remembers of inputs does not depend on batches, and survives a restart."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aweigh_quantize.methods.inputs import MOST_ROWS, Inputs


def tokens(count: int, columns: int = 8) -> torch.Tensor:
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(7))


@settings(deadline=None, max_examples=30)
@given(cuts=st.lists(st.integers(0, 5000), max_size=5), restart=st.booleans())
def test_figures_are_those_of_all_tokens_however_they_come(cuts: list[int], restart: bool) -> None:
    x, found = tokens(5000), Inputs(8)
    edges = [0, *sorted(cuts), 5000]
    for first, last in pairwise(edges):
        found.add(x[first:last])
        if restart:
            found = Inputs.restored({name: each.clone() for name, each in found.tensors().items()})
    whole = Inputs(8)
    whole.add(x)
    assert found.num_tokens == 5000
    torch.testing.assert_close(found.hessian, 2 * x.t() @ x / 5000, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.mean_abs, x.abs().mean(0))
    assert torch.equal(found.max_abs, x.abs().amax(0))
    assert torch.equal(found.low, x.amin(0))
    assert torch.equal(found.high, x.amax(0))
    assert torch.equal(found.rows, whole.rows)


def test_the_sample_is_spread_evenly_over_the_tokens() -> None:
    found = Inputs(1)
    found.add(torch.arange(40_000.0)[:, None])
    places = found.rows[:, 0]
    assert len(places) == MOST_ROWS
    assert (places.diff() > 0).all()
    counts = torch.histc(places, 10, 0, 40_000)
    assert counts.min() > 0.9 * MOST_ROWS / 10


def test_the_sample_keeps_the_number_format_of_the_inputs() -> None:
    found = Inputs(8)
    found.add(tokens(3).bfloat16()[None])
    assert found.rows.dtype == torch.bfloat16
    assert torch.equal(found.rows, tokens(3).bfloat16())


def test_second_moments_stay_exact_enough_over_a_million_tokens() -> None:
    found, x = Inputs(4), tokens(4096, 4)
    for _ in range(256):
        found.add(x)
    torch.testing.assert_close(found.hessian, 2 * x.t() @ x / 4096, rtol=1e-4, atol=1e-5)


def test_divided_inputs_are_what_dividing_first_would_have_given() -> None:
    scales = torch.tensor([0.5, 1, 2, 4, 8, 16, 3, 1])
    whole, divided = Inputs(8), Inputs(8)
    whole.add(tokens(300))
    divided.add(tokens(300) / scales)
    found = whole.divided(scales)
    for name, expected in divided.tensors().items():
        torch.testing.assert_close(found.tensors()[name], expected)


def test_inputs_that_are_not_finite_are_refused_and_leave_no_trace() -> None:
    found = Inputs(8)
    with pytest.raises(ValueError, match="not finite"):
        found.add(torch.full((2, 8), torch.nan))
    assert found.num_tokens == 0


def test_inputs_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"inputs are \[2, 7\]; expected \[..., 8\]"):
        Inputs(8).add(torch.zeros(2, 7))
