"""How many tokens to draft: what brings most tokens per second by what has been measured. Pure.

    tokens a row gains by drafting k = 1 + P(1) + … + P(k)
    P(j) = how often the j-th place of a draft is filled and stays
    k is the length with most (tokens a row gains) ÷ (time of a step with k ÷ time of one without)

Nothing is drafted unless that beats a plain step by a margin; otherwise a few answers try again
later, each time after twice as many steps. If their drafts are good, what was known before counts
less, and they try again at once, until drafting pays. If it was for the time that it did not pay,
and not for bad drafts, all answers try again for a few steps, so that the time is measured anew.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

CONFIDENCES = 20  # bins of `Calibration`
LEAST_DOUBT = 2.0 ** (-CONFIDENCES / 2)

_MARGIN = 1.1  # by which drafting must beat a plain step to begin,
_KEPT = 1.03  # and to go on
_FIRST = 4  # length until something is known
_WARM = 24  # verified drafts after which measurements decide
_MEMORY = 1 - 1 / 64  # weight of what is known against one more verified draft
_DOUBT = 4.0  # drafts' worth of belief in what is not known
_FIRST_GUESS = 0.7  # that a token stays if the one before it has
_GUESSED_COST = 0.25  # of a drafted token, in plain steps
_SAMPLES = 9  # of step times; the median counts
_ENOUGH = 3
_CHOSEN_FOR = 8  # steps before a length is chosen anew
_FRESH = 48  # steps after which a plain one is measured again,
_WAITED = 4  # if one comes soon: with prompts in every step there is none
_TRY = 2  # tokens of a probe
_TRIES = 6  # verified drafts of a probe; steps of one that measures the time
_PROBE_STEPS = 32  # at most: answers may end before they are drafted for
_FADED = 1 / 8  # weight of what was known before, once a probe went well
_PATIENCE = (128, 8192)  # steps between probes, at first and at most


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

    def fade(self) -> None:
        """What was known before counts less from now on."""
        self._tried = [_FADED * tried for tried in self._tried]
        self._kept = [_FADED * kept for kept in self._kept]
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

    Each bin has half of the doubt of the one two before it: bin = -2 · log2(1 - confidence), so
    that a draft of many tokens, all of them nearly sure, is told from one that is not. Until
    something is known a draft is believed.
    """

    def __init__(self) -> None:
        self._tried = [_DOUBT] * CONFIDENCES
        self._kept = [_DOUBT * (1.0 - 2.0 ** (-(each + 0.5) / 2)) for each in range(CONFIDENCES)]

    def observe(self, confidences: Sequence[float], kept: int) -> None:
        """A draft was verified; tokens after the first that did not stay tell nothing."""
        for place, confidence in enumerate(confidences[: kept + 1]):
            doubt = max(1.0 - confidence, LEAST_DOUBT)
            each = min(int(-2.0 * math.log2(doubt)), CONFIDENCES - 1)
            self._tried[each] = _MEMORY * self._tried[each] + 1.0
            self._kept[each] = _MEMORY * self._kept[each] + (place < kept)

    def fade(self) -> None:
        """What was known before counts less from now on."""
        self._tried = [_FADED * tried for tried in self._tried]
        self._kept = [_FADED * kept for kept in self._kept]

    @property
    def stays(self) -> list[float]:
        """By bin."""
        return [kept / tried for kept, tried in zip(self._kept, self._tried, strict=True)]


class _Times:
    """Of steps that advance about so many answers."""

    def __init__(self) -> None:
        self.plain: deque[float] = deque(maxlen=_SAMPLES)  # seconds
        self.since = _FRESH  # steps with drafts since the last plain one
        self.waited = 0  # steps for a plain one
        # Per token drafted for each answer, in plain steps: what drafting takes, and what the
        # larger step takes. That a draft model reads a prompt first is not for each token.
        self.drafting: deque[float] = deque(maxlen=_SAMPLES)
        self.verifying: deque[float] = deque(maxlen=_SAMPLES)


class StepTimes:
    """Time of a step by how many answers it advances and how many tokens are drafted for each."""

    def __init__(self) -> None:
        self._times: dict[int, _Times] = {}  # by bin of rows

    def observe_plain(self, rows: int, seconds: float) -> None:
        """A step that drafted nothing and read no prompts."""
        times = self._of(rows)
        times.plain.append(seconds)
        times.waited = 0
        if len(times.plain) >= _ENOUGH:
            times.since = 0

    def observe_drafting(self, rows: int, length: float, seconds: float) -> None:
        """Drafting took so long, for so many tokens for each answer."""
        times = self._of(rows)
        times.since += 1
        if times.plain and length > 0.0:
            times.drafting.append(seconds / length / median(times.plain))

    def observe_verifying(self, rows: int, length: float, seconds: float) -> None:
        """The rest of a step that drafted so much and read no prompts."""
        times = self._of(rows)
        if times.plain and length > 0.0:
            plain = median(times.plain)
            times.verifying.append((seconds - plain) / length / plain)

    def forget_drafts(self, rows: int) -> None:
        """What drafting takes shall be measured anew."""
        times = self._of(rows)
        times.drafting.clear()
        times.verifying.clear()

    def plain_is_due(self, rows: int) -> bool:
        """The next step shall be plain: none of so many rows has been measured for a while."""
        times = self._of(rows)
        if times.since < _FRESH:
            return False
        times.waited += 1
        if times.waited > _WAITED:
            times.since = times.waited = 0
            return False
        return True

    def slowdown(self, rows: int, length: int) -> float:
        """Time of a step with drafts ÷ time of a plain one, from the nearest size known."""
        return 1.0 + sum(self.costs(rows)) * length

    def costs(self, rows: int) -> tuple[float, float]:
        """Of drafting a token for every answer and of verifying it, in plain steps."""
        known = [
            (abs(each - _bin(rows)), max(median(times.drafting), 0.0), median(times.verifying))
            for each, times in self._times.items()
            if min(len(times.drafting), len(times.verifying)) >= _ENOUGH
        ]
        if not known:
            return _GUESSED_COST / 2, _GUESSED_COST / 2
        _, drafting, verifying = min(known)
        return drafting, max(verifying, 0.0)

    def _of(self, rows: int) -> _Times:
        found = self._times.get(_bin(rows))
        if found is None:
            found = self._times[_bin(rows)] = _Times()
        return found


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
        chosen = self._chosen.get(_bin(rows))
        if chosen is None:
            chosen = self._chosen[_bin(rows)] = self._choose(rows)
        return chosen

    def _choose(self, rows: int) -> tuple[int, float]:
        if self._least is not None and self.warm and self.rate < self._least:
            return 0, 1.0
        length, gain = self._most(rows)
        return (length, gain) if gain >= (_KEPT if self.pays else _MARGIN) else (0, 1.0)

    def _most(self, rows: int) -> tuple[int, float]:
        """The length with the largest gain, though it may be a loss."""
        cost, tokens = sum(self.times.costs(rows)), 1.0
        best = (1, 0.0)
        for length, chance in enumerate(self.acceptance.chances, 1):
            tokens += chance
            gain = tokens / (1.0 + cost * length)
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
            self._drafts *= _FADED
            self._drafted, self._stayed = _FADED * self._drafted, _FADED * self._stayed
            self._patience = _PATIENCE[0]
            self._probe = _Probe(measures_time=False, steps=_PROBE_STEPS)

    @property
    def promising(self) -> bool:
        """Drafts are good enough to pay on a machine of which nothing is known."""
        if self._least is not None and self.rate < self._least:
            return False
        return 1.0 + self.expected(_TRY) >= _MARGIN * (1.0 + _GUESSED_COST * _TRY)

    @property
    def mostly_wrong(self) -> bool:
        """Not even full drafts would pay: too few of the tokens are right."""
        if self._least is not None and self.rate < self._least:
            return True
        full = 1.0 + self.rate + self.rate**2  # tokens, were both of two always drafted
        return full < _MARGIN * (1.0 + _GUESSED_COST * 2)

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
        drafting, verifying = self.times.costs(rows)
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
        self._drafts = _MEMORY * self._drafts + 1
        self._drafted = _MEMORY * self._drafted + drafted
        self._stayed = _MEMORY * self._stayed + kept
        self.rate = self._stayed / self._drafted if self._drafted else 0.0


def _bin(rows: int) -> int:
    """Sizes that differ by less than a quarter are alike."""
    return round(math.log(max(rows, 1)) / math.log(1.25))
