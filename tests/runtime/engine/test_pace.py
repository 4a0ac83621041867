"""How much is drafted follows what it brings: on simulated machines, step by step."""

import random
from dataclasses import dataclass, field

import pytest

from aweigh_runtime.engine.speculation.pace import Calibration, Pace


@dataclass
class Simulated:
    """Steps of a machine on which each drafted token stays with some probability."""

    rows: int
    chance: float
    cost: float  # of a token drafted for every answer, in plain steps
    longest: int = 8
    least: float | None = None
    dice: random.Random = field(default_factory=lambda: random.Random(1))

    def __post_init__(self) -> None:
        self.pace = Pace(self.longest, self.least)
        self.seconds = self.tokens = 0.0

    def run(self, steps: int) -> float:
        """Tokens per second ÷ those without drafts."""
        self.seconds = self.tokens = 0.0
        for _ in range(steps):
            self._step()
        return self.tokens / self.seconds / self.rows

    def _step(self) -> None:
        pace, rows = self.pace, self.rows
        length = pace.length(rows)
        drafting = min(rows, 4) if pace.probing else rows
        share = drafting / rows
        noise = self.dice.uniform(0.9, 1.1)
        self.seconds += noise * (1.0 + self.cost * length * share)
        self.tokens += rows
        if not length:
            pace.times.observe_plain(rows, noise)
            return
        for _ in range(drafting):
            kept = next((i for i in range(length) if self.dice.random() > self.chance), length)
            self.tokens += kept
            pace.observe(length, [], length, kept)
        if not pace.probing:
            pace.times.observe_drafting(rows, length, noise * 0.5 * self.cost * length)
            pace.times.observe_verifying(rows, length, noise * (1.0 + 0.5 * self.cost * length))


def gain(chance: float, cost: float, length: int) -> float:
    tokens = sum(chance**place for place in range(length + 1))
    return tokens / (1.0 + cost * length)


@pytest.mark.parametrize("chance", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("cost", [0.05, 0.3])
@pytest.mark.parametrize("rows", [1, 16])
def test_the_length_is_nearly_the_best_one(chance: float, cost: float, rows: int) -> None:
    machine = Simulated(rows, chance, cost)
    machine.run(400)
    best = max(gain(chance, cost, length) for length in range(9))
    assert machine.run(2000) > 0.93 * best


@pytest.mark.parametrize("rows", [1, 2, 4, 8, 16, 32, 64])
def test_a_draft_that_is_always_wrong_costs_next_to_nothing(rows: int) -> None:
    machine = Simulated(rows, chance=0.0, cost=0.4)
    machine.run(200)
    assert machine.pace.pays is False
    assert machine.run(5000) > 0.99


def test_drafting_ends_soon_after_drafts_go_bad_and_begins_again_when_they_are_good() -> None:
    machine = Simulated(1, chance=0.9, cost=0.2)
    assert machine.run(1000) > 1.5
    machine.chance = 0.05
    machine.run(400)
    assert machine.pace.pays is False
    assert machine.run(2000) > 0.97
    machine.chance = 0.9
    machine.run(8192 + 500)
    assert machine.run(1000) > 1.5


def test_drafting_begins_again_when_it_was_only_slow_for_a_while() -> None:
    machine = Simulated(4, chance=0.9, cost=4.0)
    machine.run(500)
    assert machine.pace.pays is False
    machine.cost = 0.1
    machine.run(3000)
    assert machine.run(500) > 2.0


def test_below_the_least_acceptance_nothing_is_drafted_though_it_pays() -> None:
    machine = Simulated(1, chance=0.7, cost=0.05, least=0.9)
    machine.run(500)
    assert machine.pace.pays is False
    assert "expected at least 90%" in machine.pace.verdict(1)


def test_confidences_are_measured_against_what_stays() -> None:
    calibration = Calibration()
    for _ in range(2000):
        calibration.observe([1.0, 0.2], kept=1)  # the sure one stays, the unsure one does not
        calibration.observe([0.6], kept=0)
    assert calibration.stays[-1] > 0.95
    assert calibration.stays[0] < 0.05
    assert calibration.stays[2] < 0.05  # 1 - 2^(-2/2) = 0.5 up to 0.65
    assert calibration.stays[8] == pytest.approx(1 - 2 ** (-8.5 / 2))  # not tried: believed
