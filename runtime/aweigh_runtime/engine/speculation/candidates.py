"""Who drafts for an answer: the proposer that gains most for it by what is known.

That is what is known of the proposer in general, and of its drafts in this answer. New answers try
the others now and then.
"""

from collections.abc import Sequence

from aweigh_runtime.engine.history import History
from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.speculation.pace import Pace
from aweigh_runtime.engine.speculation.proposer import Proposer

_PROBED = 4  # answers that a probe drafts for
_CLEARLY = 1.05  # by which another proposer must be better


class Candidate:
    """A proposer and what is known of it."""

    def __init__(self, proposer: Proposer, pace: Pace) -> None:
        self.proposer = proposer
        self.pace = pace
        self.gone = False  # there was no memory for it
        self.length = 0  # most tokens of a draft in the next step
        self.floor = 0.0  # how likely a token must stay to be drafted there
        self.probing = False  # there it drafts for a few answers only

    def prepare(self, rows: int, steps: int) -> None:
        """Choose the length for a step of so many answers, so many after the last choice."""
        self.length = 0 if self.gone else self.pace.length(rows, steps)
        if self.length:
            self.probing = self.pace.probing
            self.floor = self._floor(rows)

    def _floor(self, rows: int) -> float:
        if not self.pace.warm or self.pace.timing:
            return 0.0
        ends_early = rows == 1 and self.proposer.stops_early
        return self.pace.floor(rows, self.length, ends_early=ends_early)


class Candidates:
    """All of them. An answer's history names its own by a number."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._all = candidates
        self._rows = 1  # answers in the next step
        self._probed = 0  # answers of it

    def __getitem__(self, number: int) -> Candidate:
        return self._all[number]

    @property
    def left(self) -> list[Candidate]:
        """Those that have the memory that they need."""
        return [each for each in self._all if not each.gone]

    def prepare(self, rows: int, steps: int = 1) -> bool:
        """Choose lengths for a step of so many answers; whether any of them drafts in it.

        Args:
            rows: answers.
            steps: since lengths were chosen last.
        """
        self._rows, self._probed = rows, 0
        for each in self._all:
            each.prepare(rows, steps)
        return any(each.length for each in self._all)

    def wanted(self, request: Request) -> int:
        """How many tokens to draft for an answer in the next step."""
        if not request.row.foreseeable:
            return 0
        history = self._history(request)
        chosen = self._all[history.proposer]
        if chosen.length == 0:
            return 0
        if chosen.probing:
            self._probed += 1
            return chosen.length if self._probed <= _PROBED else 0
        length = self.expected(request)
        if length == 0:
            history.record(history.proposer).rest()
        return length

    def expected(self, request: Request) -> int:
        """The same for an answer that has drafts, by what is known of them; it changes nothing."""
        history = request.history
        if history is None:
            return 0
        chosen = self._all[history.proposer]
        record = history.record(history.proposer)
        chances = chosen.pace.acceptance.chances[: chosen.length]
        return sum(record.ratio * chance >= chosen.floor for chance in chances)

    def _history(self, request: Request) -> History:
        """An answer's, with the proposer that gains most for it by now."""
        if request.history is None:
            request.history = History(self._first())
        history = request.history
        if len(self._all) > 1 and self._tried(history):
            gains = [self._gain(history, number) for number in range(len(self._all))]
            best = max(range(len(gains)), key=gains.__getitem__)
            if gains[best] > _CLEARLY * gains[history.proposer]:
                history.proposer = best
        return history

    def _first(self) -> int:
        """Whom a new answer begins with: the best one, or one of which too little is known."""
        usable = [number for number, each in enumerate(self._all) if not each.gone]
        if len(usable) < 2:
            return usable[0] if usable else 0
        cold = [number for number in usable if not self._all[number].pace.warm]
        if cold:
            return min(cold, key=lambda number: self._all[number].pace.verified)
        probing = [number for number in usable if self._all[number].pace.probing]
        if probing:
            return probing[0]
        return max(usable, key=lambda number: self._all[number].pace.best(self._rows)[1])

    def _tried(self, history: History) -> bool:
        """Its proposer has had its chance in this answer, or drafts nothing at present."""
        chosen = self._all[history.proposer]
        return chosen.length == 0 or history.record(history.proposer).expected >= 1.0

    def _gain(self, history: History, number: int) -> float:
        """Tokens per second of this answer with a proposer ÷ without any."""
        candidate = self._all[number]
        if candidate.gone:
            return 0.0
        length, gain = candidate.pace.best(self._rows)
        expected = candidate.pace.expected(length)
        known = history.records.get(number)
        ratio = 1.0 if known is None else min(known.ratio, 1.5)
        return gain * (1.0 + ratio * expected) / (1.0 + expected)
