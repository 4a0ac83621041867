import random

import pytest

from aweigh_runtime.engine.step_fit import MIN_STEPS, Load, StepFitter

COSTS = (4e-3, 2e-5, 1e-4, 3e-8, 5e-5)


def steps(count: int, drafting: bool = True) -> list[tuple[Load, float]]:
    dice = random.Random(1)
    found = []
    for _ in range(count):
        rows = dice.randint(1, 60)
        load = Load(
            dice.choice((0, 0, 0, 512)), rows, rows * dice.randint(50, 900), drafting * 3 * rows
        )
        base, prompt, row, kv, drafted = COSTS
        exact = (
            base
            + prompt * load.prompt_tokens
            + row * load.rows
            + kv * load.kv_tokens
            + drafted * load.drafted_tokens * dice.random()
        )
        found.append((load, exact * dice.uniform(0.97, 1.03)))
    return found


def test_a_fit_finds_what_each_part_costs() -> None:
    fitter = StepFitter()
    for load, seconds in steps(400, drafting=False):
        fitter.observe(load, seconds)
    fit = fitter.fit
    assert fit is not None
    assert (fit.base, fit.prompt_token, fit.row, fit.kv_token) == pytest.approx(COSTS[:4], rel=0.1)
    assert fit.drafted_token == 0.0
    assert fit.error < 0.03


def test_nothing_saves_time_whatever_the_steps_look_like() -> None:
    fitter = StepFitter()
    for index in range(200):  # the more rows, the quicker: nonsense, as of a machine that warms up
        fitter.observe(Load(0, index + 1, 10 * index, 0), 0.02 - 5e-5 * index)
    fit = fitter.fit
    assert fit is not None
    assert min(fit.base, fit.prompt_token, fit.row, fit.kv_token, fit.drafted_token) >= 0.0
    assert fit.base > 0.005


def test_a_few_steps_tell_nothing() -> None:
    fitter = StepFitter()
    for load, seconds in steps(MIN_STEPS - 1):
        fitter.observe(load, seconds)
    assert fitter.fit is None
