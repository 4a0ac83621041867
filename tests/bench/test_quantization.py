"""Bars of `aweigh bench quantization`: what measuring on few texts decides."""

from collections.abc import Sequence

import pytest

from aweigh_bench.bars import at_least, at_most
from aweigh_bench.quantization import Made, Speed, bars
from aweigh_quantize.evaluation import Document, Evaluation
from aweigh_quantize.job import OWN_TEXTS
from aweigh_quantize.outcome import Outcome, Sizes
from aweigh_quantize.spelling import recipe_of

TOKENS = 100  # of each document


def made(word: str, losses: Sequence[float]) -> Made:
    """A scheme that loses so many nats per token of each document."""
    documents = tuple(
        Document(TOKENS, kl=loss * TOKENS, agreeing=90, dense_loss=50.0, loss=60.0)
        for loss in losses
    )
    outcome = Outcome(
        recipe=recipe_of(word),
        layout="",
        losses={OWN_TEXTS: Evaluation(documents)},
        sizes=Sizes(1, 1, 1, 1, 1),
        seconds=1.0,
    )
    return Made(word, outcome.recipe, outcome, Speed(1, 1.0))


def verdicts(*schemes: Made) -> list[bool | None]:
    return [bar.met for bar in bars(schemes)]


@pytest.mark.parametrize(
    ("losses", "met"),
    [
        ([0.010, 0.014] * 20, True),
        ([0.016, 0.020] * 20, False),
        ([0.010, 0.020] * 20, None),  # the mean is the bar itself, and anything may be true
        ([0.0148, 0.0153] * 20, True),  # so near that nobody can tell
        ([0.010] * 5, None),
        ([0.010] * 6, True),
    ],
    ids=["below", "above", "wide", "narrow", "five documents", "six documents"],
)
def test_a_loss_keeps_its_bar_with_all_of_its_interval(
    losses: list[float], met: bool | None
) -> None:
    assert verdicts(made("fp8", losses)) == [met]


@pytest.mark.parametrize(
    ("losses", "met"),
    [
        ([0.04, 0.05] * 20, True),
        ([0.06, 0.07] * 20, False),
        ([0.03, 0.08] * 20, None),
        ([0.01], None),
    ],
)
def test_what_is_won_keeps_its_bar_in_the_same_way(losses: list[float], met: bool | None) -> None:
    nearest = made("rtn-4", [0.1] * len(losses))
    assert verdicts(nearest, made("gptq-4", losses)) == [met]
    recovered = [0.5 / 0.55 * loss for loss in losses]  # of whom half is expected
    before = made("gptq-4-g64", [0.1] * len(losses))
    assert verdicts(before, made("gptq-4-g64-recover", recovered)) == [met]


def test_a_scheme_that_wins_nothing_is_not_better() -> None:
    losses = [0.1, 0.2] * 10
    assert verdicts(made("rtn-4-g32", losses), made("gptq-4-g32", losses)) == [False]


@pytest.mark.parametrize(
    ("low", "high", "most"), [(1.0, 2.0, 2.0), (2.1, 3.0, 2.0), (1.9, 2.5, 2.0), (1.97, 2.03, 2.0)]
)
def test_most_and_least_are_judged_alike(low: float, high: float, most: float) -> None:
    assert at_most(low, high, most) is at_least(2 * most - high, 2 * most - low, most)
