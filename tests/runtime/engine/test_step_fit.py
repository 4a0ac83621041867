"""What each part of a step costs, found in steps of real traffic's kind."""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from aweigh_runtime.engine.messages import StepFit
from aweigh_runtime.engine.step_fit import MIN_STEPS, Load, StepFitter, Timed

COSTS = (4e-3, 2.7e-5, 1e-4, 3e-8, 5e-5)
RECORDED = Path(__file__).parent / "recorded_steps.json"
NOISE = 0.03
LONG = 2000  # steps
CONTEXT = 500  # tokens behind which an answer stands, on average


def seconds(load: Load, costs: Sequence[float] = COSTS) -> float:
    return sum(cost * part for cost, part in zip(costs, (1, *load), strict=True))


def known(wrong: float = 1.0) -> list[Timed]:
    """Steps of a warm-up, which took a little more or less than such steps take later."""
    loads = [Load(8192, 0, 0, 0), Load(0, 1, 1, 0), Load(0, 256, 256, 0), Load(0, 1, 8192, 0)]
    return [Timed(load, seconds(load) * wrong ** (-1) ** at) for at, load in enumerate(loads)]


def traffic(num_streams: int, count: int, *, come_and_go: bool = False) -> Iterator[Load]:
    """Answers of 400 tokens behind prompts of 300, as many at once at all times."""
    dice = random.Random(1)
    contexts = [dice.randint(300, 700) for _ in range(num_streams)]
    for _ in range(count):
        prompt, rows = 0, dice.randint(1, num_streams) if come_and_go else num_streams
        for at in range(rows):
            contexts[at] += 1
            if contexts[at] > 700:
                contexts[at], prompt = 300, prompt + 300
        yield Load(prompt, rows, sum(contexts[:rows]), 0)


def drafting(loads: Iterator[Load]) -> Iterator[Load]:
    """Three tokens for each answer."""
    for load in loads:
        yield load._replace(drafted_tokens=3 * load.rows)


def fitted(
    fitter: StepFitter, loads: Iterator[Load], costs: Sequence[float] = COSTS
) -> StepFit | None:
    dice = random.Random(2)
    for load in loads:
        fitter.observe(load, seconds(load, costs) * dice.uniform(1 - NOISE, 1 + NOISE))
        found = fitter.fit
    return found


def costs_of(fit: StepFit | None) -> tuple[float, ...]:
    assert fit is not None
    return fit.base, fit.prompt_token, fit.row, fit.kv_token, fit.drafted_token


def in_all(costs: Sequence[float]) -> tuple[float, ...]:
    """Of a step, a prompt token, an answer: equal contexts hide what that is made of."""
    return costs[0], costs[1], costs[2] + CONTEXT * costs[3]


def test_steps_that_differ_tell_what_each_part_costs() -> None:
    fit = fitted(StepFitter(), traffic(60, LONG, come_and_go=True))
    assert costs_of(fit)[:3] == pytest.approx(COSTS[:3], rel=0.1)
    assert costs_of(fit)[4] == 0.0
    assert fit is not None
    assert fit.error < NOISE


@pytest.mark.parametrize("num_streams", [1, 4, 64])
def test_of_traffic_that_stays_the_same_the_warm_up_tells_the_parts(num_streams: int) -> None:
    """The same answers at all times: without the warm-up base and rows cannot be told apart."""
    fit = fitted(StepFitter(known()), traffic(num_streams, LONG))
    assert costs_of(fit)[:3] == pytest.approx(COSTS[:3], rel=0.05)
    assert costs_of(fit)[3] == pytest.approx(COSTS[3], rel=0.5)


def test_steps_that_differ_overrule_a_warm_up_that_was_a_third_off() -> None:
    fit = fitted(StepFitter(known(wrong=1.33)), traffic(60, LONG, come_and_go=True))
    assert in_all(costs_of(fit)) == pytest.approx(in_all(COSTS), rel=0.05)


def test_what_steps_cost_is_forgotten_when_it_changes() -> None:
    fitter = StepFitter(known())
    fitted(fitter, traffic(60, LONG, come_and_go=True))
    doubled = tuple(2 * cost for cost in COSTS)
    fit = fitted(fitter, traffic(60, 3 * LONG, come_and_go=True), doubled)
    assert in_all(costs_of(fit)) == pytest.approx(in_all(doubled), rel=0.1)


def test_steps_with_drafts_are_not_mixed_with_steps_without() -> None:
    """A draft model runs before each step, whoever it drafts for: another base."""
    fitter, costs = StepFitter(known()), (9e-3, *COSTS[1:])
    fitted(fitter, traffic(8, LONG))
    while_drafting = fitted(fitter, drafting(traffic(8, LONG, come_and_go=True)), costs)
    assert costs_of(while_drafting)[0] == pytest.approx(costs[0], rel=0.1)
    paused = fitted(fitter, traffic(8, 128))
    assert costs_of(paused)[0] == pytest.approx(COSTS[0], rel=0.05)


def test_nothing_saves_time_whatever_the_steps_look_like() -> None:
    fitter = StepFitter()
    for index in range(200):  # the more rows, the quicker: nonsense, as of a machine that warms up
        fitter.observe(Load(0, index + 1, 10 * index, 0), 0.02 - 5e-5 * index)
    fit = fitter.fit
    assert min(costs_of(fit)) >= 0.0
    assert costs_of(fit)[0] > 0.005


def test_one_long_pause_changes_next_to_nothing() -> None:
    fitter = StepFitter(known())
    before = costs_of(fitted(fitter, traffic(8, LONG)))
    fitter.observe(Load(0, 8, 4000, 0), 3.0)
    after = costs_of(fitted(fitter, traffic(8, 64)))
    assert after[:3] == pytest.approx(before[:3], rel=0.1)


def test_a_few_steps_tell_nothing() -> None:
    assert fitted(StepFitter(known()), traffic(8, MIN_STEPS - 1)) is None


def test_a_fit_foretells_what_recorded_steps_took() -> None:
    """Of a real engine: fitted to a few chats at once, it knows what many will take."""
    recorded = json.loads(RECORDED.read_text())
    known, steps = ([Timed(Load(*of[:4]), of[4]) for of in recorded[key]] for key in recorded)
    fitter, half = StepFitter(known), len(steps) // 2
    for step in steps[:half]:
        fitter.observe(*step)
    costs = costs_of(fitter.fit)
    foretold = sum(seconds(step.load, costs) for step in steps[half:])
    assert foretold == pytest.approx(sum(step.seconds for step in steps[half:]), rel=0.25)
