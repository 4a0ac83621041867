"""The interval of a comparison holds what it promises, whatever the ratios look like."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aweigh_bench.paired import compare, exceeds, verdict

RATIOS = st.lists(st.floats(0.01, 100), min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("pairs", "low", "high", "confidence"),
    # Order statistics of the sign test, as in printed tables of binomial intervals for a median.
    [(6, 1, 6, 0.96875), (10, 2, 9, 0.978516), (20, 6, 15, 0.958611), (30, 10, 21, 0.957226)],
)
def test_the_interval_is_the_one_of_the_sign_test(
    pairs: int, low: int, high: int, confidence: float
) -> None:
    found = compare([float(rank) for rank in range(1, pairs + 1)])
    assert (found.low, found.high) == (low, high)
    assert found.confidence == pytest.approx(confidence, abs=1e-6)


def test_the_true_median_is_inside_as_often_as_promised() -> None:
    source = random.Random(2)
    inside = 0
    for _ in range(4000):
        found = compare([source.lognormvariate(0, 1) for _ in range(30)])  # median 1, skewed
        inside += found.low <= 1 <= found.high
    assert inside / 4000 == pytest.approx(found.confidence, abs=0.015)


@given(RATIOS)
def test_the_median_lies_in_its_interval(ratios: list[float]) -> None:
    found = compare(ratios)
    assert min(ratios) <= found.low <= found.ratio <= found.high <= max(ratios)
    assert found.confidence >= 0.95 or len(ratios) < 6


def test_too_few_pairs_say_how_little_they_tell() -> None:
    found = compare([1.0, 2.0, 3.0])
    assert (found.low, found.high, found.confidence) == (1.0, 3.0, 0.75)
    assert "75.0 % interval" in str(found)


def test_one_pair_has_no_interval() -> None:
    assert str(compare([0.476])) == "0.476 (one pair)"


def test_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        compare([])


@pytest.mark.parametrize(
    ("middle", "spread", "expected"),
    [
        (1.2, 0.15, True),  # all of it is above the bar
        (0.8, 0.15, False),  # all of it is below
        (0.995, 0.01, True),  # so near that nobody can tell
        (1.005, 0.01, True),
        (0.95, 0.1, None),  # too wide to say anything
        (1.05, 0.1, None),
    ],
)
def test_a_bar_is_judged_by_the_whole_interval(
    middle: float, spread: float, expected: bool | None
) -> None:
    values = [middle - spread] * 11 + [middle] * 8 + [middle + spread] * 11
    assert verdict(compare(values), 1.0) is expected
    assert verdict(compare([3 * value for value in values]), 3.0) is expected


@pytest.mark.parametrize(
    ("ratios", "met"), [([1.01] * 6, True), ([1.0] * 6, False), ([0.999, *[1.001] * 5], None)]
)
def test_what_must_be_exceeded_is_not_reached_by_being_near(
    ratios: list[float], met: bool | None
) -> None:
    assert exceeds(compare(ratios), 1.0) is met
    assert exceeds(compare(ratios[:5]), 1.0) is None


def test_five_pairs_decide_nothing() -> None:
    assert verdict(compare([9.0] * 5), 1.0) is None
    assert verdict(compare([9.0] * 6), 1.0) is True
