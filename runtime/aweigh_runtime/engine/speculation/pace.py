"""How many tokens to draft: what brings most tokens per second by what has been measured. Pure.

    tokens a row gains by drafting k = 1 + P(1) + … + P(k)
    P(j) = how often the j-th place of a draft is filled and stays
    k is the length with most (tokens a row gains) ÷ (time of a step with k ÷ time of one without)

Nothing is drafted unless that beats a plain step by a margin; otherwise a few answers try again
later, each time after twice as many steps, until drafting pays again. If it was for the time that
it did not pay, and not for bad drafts, all answers try again, so that the time is measured anew.
"""

import math
from collections import deque
from collections.abc import Sequence
from statistics import median

CONFIDENCES = 10  # bins of `Calibration`

_MARGIN = 1.03  # by which drafting must beat a plain step
_FIRST = 4  # length until something is known
_WARM = 24  # verified drafts after which measurements decide
_MEMORY = 1 - 1 / 256  # weight of what is known against one more verified draft
_DOUBT = 4.0  # drafts' worth of belief in what is not known
_FIRST_GUESS = 0.7  # that a token stays if the one before it has
_GUESSED_COST = 0.25  # of a drafted token, in plain steps
_SAMPLES = 9  # of step times; the median counts
_RECENT = 24  # steps that tell most of what drafting takes
_ENOUGH = 3
_CHOSEN_FOR = 8  # steps before a length is chosen anew
_FRESH = 48  # steps after which a plain one is measured again
_TRY = 2  # tokens of a probe
_TRIES = 6  # verified drafts of a probe
_PATIENCE = (64, 8192)  # steps between probes, at first and at most


class Acceptance:
    """How often each place of a draft is filled and stays, recent drafts most."""

    def __init__(self, longest: int) -> None:
        self._tried = [0.0] * longest
        self._kept = [0.0] * longest
        self._chances: list[float] | None = None

    def observe(self, asked: int, kept: int) -> None:
        """A draft of at most `asked` tokens was verified: so many of its tokens stayed."""
        for place in range(asked):
            self._tried[place] = _MEMORY * self._tried[place] + 1.0
            self._kept[place] = _MEMORY * self._kept[place] + (place < kept)
        self._chances = None

    @property
    def chances(self) -> Sequence[float]:
        """P(1), P(2), …: never rising. A place that was not tried goes on as those before it."""
        if self._chances is None:
            self._chances = []
            before, ratio = 1.0, _FIRST_GUESS
            for tried, kept in zip(self._tried, self._kept, strict=True):
                chance = min((kept + _DOUBT * before * ratio) / (tried + _DOUBT), before)
                ratio = chance / before if before > 0 else 0.0
                before = chance
                self._chances.append(chance)
        return self._chances


class Calibration:
    """How often a drafted token stays, by how likely the draft held its likeliest token.

    Bins are equally wide between 0 and 1. Until something is known a draft is believed.
    """

    def __init__(self) -> None:
        self._tried = [_DOUBT] * CONFIDENCES
        self._kept = [_DOUBT * (each + 0.5) / CONFIDENCES for each in range(CONFIDENCES)]

    def observe(self, confidences: Sequence[float], kept: int) -> None:
        """A draft was verified; tokens after the first that did not stay tell nothing."""
        for place, confidence in enumerate(confidences[: kept + 1]):
            each = min(int(confidence * CONFIDENCES), CONFIDENCES - 1)
            self._tried[each] = _MEMORY * self._tried[each] + 1.0
            self._kept[each] = _MEMORY * self._kept[each] + (place < kept)

    @property
    def stays(self) -> list[float]:
        """By bin."""
        return [kept / tried for kept, tried in zip(self._kept, self._tried, strict=True)]


class _Times:
    """Of steps that advance about so many answers."""

    def __init__(self) -> None:
        self.plain: deque[float] = deque(maxlen=_SAMPLES)  # seconds
        self.since = 0  # steps with drafts since the last plain one
        # Per token drafted for each answer, in plain steps: what drafting takes, reading of
        # prompts by the draft included, and what the larger step takes.
        self.drafting: float | None = None
        self.verifying: deque[float] = deque(maxlen=_SAMPLES)


class StepTimes:
    """Time of a step by how many answers it advances and how many tokens are drafted for each."""

    def __init__(self) -> None:
        self._times: dict[int, _Times] = {}  # by bin of rows

    def observe_plain(self, rows: int, seconds: float) -> None:
        """A step that drafted nothing and read no prompts."""
        times = self._of(rows)
        times.plain.append(seconds)
        times.since = 0

    def observe_drafting(self, rows: int, length: float, seconds: float) -> None:
        """Drafting took so long, for so many tokens for each answer."""
        times = self._of(rows)
        times.since += 1
        if times.plain and length > 0.0:
            cost = seconds / length / median(times.plain)
            known = times.drafting
            times.drafting = cost if known is None else known + (cost - known) / _RECENT

    def observe_verifying(self, rows: int, length: float, seconds: float) -> None:
        """The rest of a step that drafted so much and read no prompts."""
        times = self._of(rows)
        if times.plain and length > 0.0:
            plain = median(times.plain)
            times.verifying.append((seconds - plain) / length / plain)

    def forget_drafts(self) -> None:
        """What drafting takes shall be measured anew."""
        for times in self._times.values():
            times.drafting = None
            times.verifying.clear()

    def plain_is_stale(self, rows: int) -> bool:
        """A plain step of so many rows has not been measured for a while."""
        times = self._of(rows)
        return len(times.plain) < _ENOUGH or times.since >= _FRESH

    def slowdown(self, rows: int, length: int) -> float:
        """Time of a step with drafts ÷ time of a plain one, from the nearest size known."""
        known = [
            (abs(each - _bin(rows)), max(times.drafting + median(times.verifying), 0.0))
            for each, times in self._times.items()
            if times.drafting is not None and len(times.verifying) >= _ENOUGH
        ]
        cost = min(known)[1] if known else _GUESSED_COST
        return 1.0 + cost * length

    def _of(self, rows: int) -> _Times:
        return self._times.setdefault(_bin(rows), _Times())


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
        self._tries_left = 0
        self._timing = False  # all answers try, and the time is measured
        self._drafted = self._stayed = 0.0
        self._chosen: dict[int, tuple[int, float]] = {}  # by bin of rows
        self._age = 0  # steps since it was chosen

    @property
    def warm(self) -> bool:
        """Measurements decide."""
        return self.verified >= _WARM

    @property
    def probing(self) -> bool:
        """A few answers try whether drafts are any good again."""
        return self._tries_left > 0 and not self._timing

    def gain(self, rows: int, length: int) -> float:
        """Tokens per second with drafts of a length ÷ without."""
        tokens = 1.0 + sum(self.acceptance.chances[:length])
        return tokens / self.times.slowdown(rows, length)

    def best(self, rows: int) -> tuple[int, float]:
        """The length that pays most, 0 if none does, and what it gains."""
        self._age += 1
        if self._age > _CHOSEN_FOR or not self.warm:
            self._age = 0
            self._chosen.clear()
        chosen = self._chosen.get(_bin(rows))
        if chosen is None:
            chosen = self._chosen[_bin(rows)] = self._choose(rows)
        return chosen

    def _choose(self, rows: int) -> tuple[int, float]:
        if self._least is not None and self.warm and self.rate < self._least:
            return 0, 1.0
        length = max(range(1, self._longest + 1), key=lambda each: self.gain(rows, each))
        gain = self.gain(rows, length)
        return (length, gain) if gain >= _MARGIN else (0, 1.0)

    def length(self, rows: int) -> int:
        """Tokens to draft for each answer of the next step; while probing for a few of them."""
        if not self.warm:
            first = min(_FIRST, self._longest)
            return 0 if self.verified and self.times.plain_is_stale(rows) else first
        best, _ = self.best(rows)
        self.pays = best > 0
        if best > 0:
            self._idle_steps = self._tries_left = 0
            self._patience = _PATIENCE[0]
            return 0 if self.times.plain_is_stale(rows) else best
        if self._tries_left == 0:
            self._idle_steps += 1
            if self._idle_steps < self._patience:
                return 0
            self._idle_steps = 0
            self._patience = min(2 * self._patience, _PATIENCE[1])
            self._timing = self._promising
            self._tries_left = _TRIES
            if self._timing:
                self._tries_left *= rows
                self.times.forget_drafts()
        return min(_FIRST if self._timing else _TRY, self._longest)

    @property
    def _promising(self) -> bool:
        """Drafts are good enough to pay on a machine of which nothing is known."""
        if self._least is not None and self.rate < self._least:
            return False
        return 1.0 + self.expected(_TRY) >= _MARGIN * (1.0 + _GUESSED_COST * _TRY)

    def verdict(self, rows: int) -> str:
        """Why drafting does not pay, in numbers."""
        if self._least is not None and self.rate < self._least:
            return f"{self.rate:.0%} of drafted tokens stay; expected at least {self._least:.0%}"
        length = max(range(1, self._longest + 1), key=lambda each: self.gain(rows, each))
        return (
            f"{self.rate:.0%} of drafted tokens stay: with {length} drafted, a step of {rows} "
            f"answers gives {1.0 + self.expected(length):.2f} times as many tokens and takes "
            f"{self.times.slowdown(rows, length):.2f} times as long"
        )

    def floor(self, rows: int, length: int) -> float:
        """How likely a token must stay to be worth its time, all before it included."""
        slowdown = self.times.slowdown(rows, length)
        tokens = 1.0 + sum(self.acceptance.chances[:length])
        return max(slowdown - 1.0, 0.0) / length * tokens / slowdown

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
        self._tries_left = max(self._tries_left - 1, 0)
        self.acceptance.observe(asked, kept)
        self.calibration.observe(confidences[:drafted], kept)
        self._drafted = _MEMORY * self._drafted + drafted
        self._stayed = _MEMORY * self._stayed + kept
        self.rate = self._stayed / self._drafted if self._drafted else 0.0


def _bin(rows: int) -> int:
    """Sizes that differ by less than a quarter are alike."""
    return round(math.log(max(rows, 1)) / math.log(1.25))
