"""How many tokens to draft: what brings most tokens per second by what has been measured. Pure.

    tokens a row gains by drafting k = 1 + P(1) + … + P(k)
    P(j) = how often the j-th place of a draft is filled and stays
    k is the length with most (tokens a row gains) ÷ (time of a step with k ÷ time of one without)
    that time is a part for a draft of any length, and one for each of its tokens: see `step_times`

Nothing is drafted unless that beats a plain step by a margin; otherwise a few answers try again
later, each time after twice as many steps. If their drafts are good, what was known before counts
less, and they try again at once, until drafting pays. If it was for the time that it did not pay,
and not for bad drafts, all answers try again for a few steps, so that the time is measured anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from aweigh_runtime.engine.speculation.acceptance import FADED, MEMORY, Acceptance, Calibration
from aweigh_runtime.engine.speculation.step_times import GUESSED_COST, StepTimes, alike

_MARGIN = 1.1  # by which drafting must beat a plain step to begin,
_KEPT = 1.03  # and to go on
_FIRST = 4  # length until something is known
_WARM = 24  # verified drafts after which measurements decide
_CHOSEN_FOR = 8  # steps before a length is chosen anew
_TRY = 2  # tokens of a probe
_TRIES = 6  # verified drafts of a probe; steps of one that measures the time
_PROBE_STEPS = 32  # at most: answers may end before they are drafted for
_PATIENCE = (128, 8192)  # steps between probes, at first and at most


@dataclass(slots=True)
class _Probe:
    """Drafts that find out whether drafting is any good again."""

    measures_time: bool  # for it all answers draft, else a few
    steps: int  # that are left
    tries: int = _TRIES  # drafts to be verified yet
    kept: int = 0  # tokens of those that were

    @property
    def over(self) -> bool:
        """Nothing is left to be tried."""
        return self.steps <= 0 or (self.tries <= 0 and not self.measures_time)


class Pace:
    """Chooses lengths for one proposer."""

    def __init__(self, longest: int, least_acceptance: float | None) -> None:
        """Begin without knowing anything.

        Args:
            longest: most tokens of a draft.
            least_acceptance: share of drafted tokens that must stay; None: only the gain counts.
        """
        self.acceptance = Acceptance(longest)
        self.calibration = Calibration()
        self.times = StepTimes()
        self.verified = 0  # drafts
        self.rate = 1.0  # share of drafted tokens that stay, recent ones most
        self.pays: bool | None = None  # None: it is not known yet
        self._longest = longest
        self._least = least_acceptance
        self._patience = _PATIENCE[0]
        self._idle_steps = 0
        self._probe: _Probe | None = None
        self._drafts = self._drafted = self._stayed = 0.0
        self._chosen: dict[int, tuple[int, float]] = {}  # by bin of rows
        self._paid_steps = 0  # in a row
        self._age = 0  # steps since it was chosen

    @property
    def warm(self) -> bool:
        """Measurements decide."""
        return self.verified >= _WARM

    @property
    def probing(self) -> bool:
        """A few answers try whether drafts are any good again."""
        return self._probe is not None and not self._probe.measures_time

    @property
    def timing(self) -> bool:
        """All answers draft, whatever it takes, so that the time is known."""
        return self._probe is not None and self._probe.measures_time

    def best(self, rows: int) -> tuple[int, float]:
        """The length that pays most, 0 if none does, and what it gains."""
        if self._age > _CHOSEN_FOR * (1 if self.pays else 4) or not self.warm:
            self._age = 0
            self._chosen.clear()
        chosen = self._chosen.get(alike(rows))
        if chosen is None:
            chosen = self._chosen[alike(rows)] = self._choose(rows)
        return chosen

    def _choose(self, rows: int) -> tuple[int, float]:
        if self._least is not None and self.warm and self.rate < self._least:
            return 0, 1.0
        length, gain = self._most(rows)
        return (length, gain) if gain >= (_KEPT if self.pays else _MARGIN) else (0, 1.0)

    def _most(self, rows: int) -> tuple[int, float]:
        """The length with the largest gain, though it may be a loss."""
        tokens, best = 1.0, (1, 0.0)
        for length, chance in enumerate(self.acceptance.chances, 1):
            tokens += chance
            gain = tokens / self.times.slowdown(rows, length)
            if gain > best[1]:
                best = (length, gain)
        return best

    def length(self, rows: int, steps: int = 1) -> int:
        """Tokens to draft for each answer of the next step; while probing for a few of them.

        Args:
            rows: answers in it.
            steps: since it was asked last.
        """
        self._age += steps
        if not self.warm:
            first = min(_FIRST, self._longest)
            return 0 if self.verified and self.times.plain_is_due(rows) else first
        if self._probe is not None and self._probe.over:
            self._end_probe(self._probe, rows)
        best, _ = self.best(rows)
        self.pays = best > 0
        self._paid_steps = self._paid_steps + 1 if best > 0 else 0
        if best > 0:
            self._idle_steps, self._probe = 0, None
            if self._paid_steps >= _PATIENCE[0]:
                self._patience = _PATIENCE[0]
            return 0 if self.times.plain_is_due(rows) else best
        if self._probe is None:
            self._idle_steps += steps
            if self._idle_steps < self._patience:
                return 0
            self._begin_probe(rows)
        return self._probe_length()

    def _begin_probe(self, rows: int) -> None:
        self._idle_steps = 0
        self._patience = min(2 * self._patience, _PATIENCE[1])
        if self.promising:
            self._probe = _Probe(measures_time=True, steps=_TRIES)
            self.times.forget_drafts(rows)
        else:
            self._probe = _Probe(measures_time=False, steps=_PROBE_STEPS)

    def _probe_length(self) -> int:
        assert self._probe is not None
        self._probe.steps -= 1
        return min(_FIRST if self._probe.measures_time else _TRY, self._longest)

    def _end_probe(self, probe: _Probe, rows: int) -> None:
        """Another one follows at once if this one went well."""
        self._probe = None
        self._chosen.clear()
        tries = _TRIES - probe.tries
        if probe.measures_time or tries < _TRIES // 2:
            return
        length = min(_TRY, self._longest)
        kept = probe.kept / tries
        good = 1.0 + kept >= _MARGIN * self.times.slowdown(rows, length)
        if good and (self._least is None or kept / length >= self._least):
            self.acceptance.fade()
            self.calibration.fade()
            self._drafts *= FADED
            self._drafted, self._stayed = FADED * self._drafted, FADED * self._stayed
            self._patience = _PATIENCE[0]
            self._probe = _Probe(measures_time=False, steps=_PROBE_STEPS)

    @property
    def promising(self) -> bool:
        """Drafts are good enough to pay on a machine of which nothing is known."""
        if self._least is not None and self.rate < self._least:
            return False
        return 1.0 + self.expected(_TRY) >= _MARGIN * (1.0 + GUESSED_COST * _TRY)

    @property
    def mostly_wrong(self) -> bool:
        """Not even full drafts would pay: too few of the tokens are right."""
        if self._least is not None and self.rate < self._least:
            return True
        full = 1.0 + self.rate + self.rate**2  # tokens, were both of two always drafted
        return full < _MARGIN * (1.0 + GUESSED_COST * 2)

    def verdict(self, rows: int) -> str:
        """Why drafting does not pay, in numbers."""
        if self._least is not None and self.rate < self._least:
            return f"{self.rate:.0%} of drafted tokens stay; expected at least {self._least:.0%}"
        length, _ = self._most(rows)
        return (
            f"it drafts {self.mean_length:.1f} tokens at a time, of which {self.rate:.0%} stay: "
            f"asked for {length}, a step of {rows} answers gives "
            f"{1.0 + self.expected(length):.2f} times as many tokens and takes "
            f"{self.times.slowdown(rows, length):.2f} times as long"
        )

    def floor(self, rows: int, length: int, *, ends_early: bool) -> float:
        """How likely a token must stay to be worth its time, all before it included.

        Args:
            rows: answers in the step.
            length: tokens that are drafted for each.
            ends_early: an answer that wants no more saves the time of drafting, not only that of
                the larger step.
        """
        drafting, verifying = self.times.token(rows)
        cost = verifying + (drafting if ends_early else 0.0)
        tokens = 1.0 + sum(self.acceptance.chances[:length])
        return cost * tokens / self.times.slowdown(rows, length)

    @property
    def mean_length(self) -> float:
        """Tokens of a draft."""
        return self._drafted / self._drafts if self._drafts else 0.0

    def expected(self, length: int) -> float:
        """Tokens of a draft that stay on average."""
        return sum(self.acceptance.chances[:length])

    def observe(self, asked: int, confidences: Sequence[float], drafted: int, kept: int) -> None:
        """A draft was verified.

        Args:
            asked: the length that was wanted.
            confidences: of the drafted tokens, if the proposer has any.
            drafted: tokens.
            kept: those that stayed.
        """
        self.verified += 1
        if self._probe is not None:
            self._probe.tries -= 1
            self._probe.kept += kept
        self.acceptance.observe(asked, kept)
        self.calibration.observe(confidences[:drafted], kept)
        self._drafts = MEMORY * self._drafts + 1
        self._drafted = MEMORY * self._drafted + drafted
        self._stayed = MEMORY * self._stayed + kept
        self.rate = self._stayed / self._drafted if self._drafted else 0.0
