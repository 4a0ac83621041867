"""Of several that draft, answers are drafted for by the one that gains most: simulated steps."""

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.speculation.candidates import Candidate, Candidates
from aweigh_runtime.engine.speculation.pace import Pace
from tests.runtime.engine.test_pace import ANSWER_STEPS, Nobody, request

ROWS = 4
LONGEST = 8
COST = 0.1  # of a token drafted for every answer, in plain steps


@dataclass
class Rivals:
    """Two that draft, of which each has its own chance that a token stays."""

    chances: list[float]
    dice: random.Random = field(default_factory=lambda: random.Random(2))

    def __post_init__(self) -> None:
        self.paces = [Pace(LONGEST, None) for _ in self.chances]
        self.candidates = Candidates([Candidate(Nobody(), pace) for pace in self.paces])

    def run(self, steps: int) -> list[float]:
        """The share of the drafted tokens that each has drafted."""
        drafted: Counter[int] = Counter()
        answers: list[Request] = []
        for step in range(steps):
            if step % ANSWER_STEPS == 0:
                answers = [request(id) for id in range(ROWS)]
            drafted += self._step(answers)
        return [drafted[number] / drafted.total() for number in range(len(self.chances))]

    def _step(self, answers: list[Request]) -> Counter[int]:
        """Tokens that were drafted, by the number of who drafted them."""
        self.candidates.prepare(ROWS)
        rooms: Counter[int] = Counter()
        for each in answers:
            room = self.candidates.wanted(each)
            if room and each.history is not None:
                rooms[each.history.proposer] += room
                self._verify(each, room)
        length = rooms.total() / ROWS
        for number, pace in enumerate(self.paces):
            if not rooms:
                pace.times.observe_plain(ROWS, 1.0)
            elif rooms[number] and not self.candidates[number].probing:
                own = rooms[number] / ROWS
                pace.times.observe_drafting(ROWS, own, 0.5 * COST * own)
                pace.times.observe_verifying(ROWS, length, 1.0 + 0.5 * COST * length)
        return rooms

    def _verify(self, answer: Request, room: int) -> None:
        assert answer.history is not None
        number = answer.history.proposer
        chance = self.chances[number]
        kept = next((i for i in range(room) if self.dice.random() > chance), room)
        answer.history.record(number).observe(self.paces[number].expected(room), kept)
        self.paces[number].observe(room, [], room, kept)


@pytest.mark.parametrize("better", [0, 1])
def test_the_better_one_of_two_drafts_nearly_everything(better: int) -> None:
    chances = [0.5, 0.5]
    chances[better] = 0.9
    rivals = Rivals(chances)
    rivals.run(400)
    assert rivals.run(2000)[better] > 0.9


def test_when_the_better_one_goes_bad_the_other_one_takes_over() -> None:
    rivals = Rivals([0.9, 0.6])
    rivals.run(600)
    rivals.chances[0] = 0.05
    rivals.run(600)
    assert rivals.run(2000)[1] > 0.9
