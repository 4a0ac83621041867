"""Bits per matrix: never over the budget, and as good as trying everything."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aweigh_quantize.methods import sensitivity
from aweigh_quantize.methods.sensitivity import assign

MATRICES = st.lists(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 30)), min_size=1, max_size=4),
    min_size=1,
    max_size=5,
)


def tables(
    matrices: list[list[tuple[int, int]]],
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, int]]]:
    costs = {
        f"m{at}": {f"o{place}": float(error) for place, (error, _) in enumerate(options)}
        for at, options in enumerate(matrices)
    }
    sizes = {
        f"m{at}": {f"o{place}": size for place, (_, size) in enumerate(options)}
        for at, options in enumerate(matrices)
    }
    return costs, sizes


@settings(deadline=None)
@given(matrices=MATRICES, budget=st.integers(1, 150))
def test_the_assignment_is_as_good_as_the_best_of_all(
    matrices: list[list[tuple[int, int]]], budget: int
) -> None:
    costs, sizes = tables(matrices)
    fitting = [
        sum(error for error, _ in choice)
        for choice in itertools.product(*matrices)
        if sum(size for _, size in choice) <= budget
    ]
    if not fitting:
        with pytest.raises(ValueError, match=f"the budget is {budget} bits; expected at least"):
            assign(costs, sizes, budget)
        return
    found = assign(costs, sizes, budget)
    assert list(found) == list(costs)
    assert sum(sizes[matrix][option] for matrix, option in found.items()) <= budget
    assert sum(costs[matrix][option] for matrix, option in found.items()) == min(fitting)


def test_many_sums_are_thinned_out_and_the_budget_still_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sensitivity, "MOST_SUMS", 50)
    costs = {f"m{at}": {"low": 10.0 + at, "high": 1.0} for at in range(40)}
    sizes = {f"m{at}": {"low": 1000 + 7 * at, "high": 2000 + 11 * at} for at in range(40)}
    found = assign(costs, sizes, 65_000)
    assert sum(sizes[matrix][option] for matrix, option in found.items()) <= 65_000
    high = [int(matrix[1:]) for matrix, option in found.items() if option == "high"]
    assert sum(high) / len(high) > 20  # those that gain more


def test_a_model_of_many_layers_is_assigned_in_no_time() -> None:
    shapes = {"q": 1 << 24, "k": 1 << 22, "v": 1 << 22, "o": 1 << 24, "up": 58720256}
    bits = {"2": 2, "3": 3, "4": 4, "8": 8, "dense": 16}
    names = [(f"{layer}.{name}", size) for layer in range(80) for name, size in shapes.items()]
    costs = {
        name: {option: (1 + at % 17) * 4.0**-width for option, width in bits.items()}
        for at, (name, _) in enumerate(names)
    }
    sizes = {name: {option: width * size for option, width in bits.items()} for name, size in names}
    budget = int(4.6 * sum(size for _, size in names))
    found = assign(costs, sizes, budget)
    used = sum(sizes[matrix][option] for matrix, option in found.items())
    assert 0.99 * budget < used <= budget


@pytest.mark.parametrize(
    ("costs", "sizes", "message"),
    [
        ({"a": {"x": 1.0}}, {}, "a has errors for .* and sizes for .*; expected the same options"),
        ({"a": {}}, {"a": {}}, "at least one"),
        ({"a": {"x": float("nan")}}, {"a": {"x": 1}}, "the errors of a are .*; expected finite"),
    ],
)
def test_tables_that_do_not_fit_are_refused(
    costs: dict[str, dict[str, float]], sizes: dict[str, dict[str, int]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        assign(costs, sizes, 10)
