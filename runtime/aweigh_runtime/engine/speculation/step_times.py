"""How long steps take that draft, and those that do not, by how many answers they advance. Pure."""

import math
from collections import deque
from statistics import median

GUESSED_COST = 0.25  # of a drafted token, in plain steps
_SAMPLES = 9  # of step times; the median counts
_ENOUGH = 3
_LEAST_SHARE = 0.05  # of what a draft costs: its tokens'
_STALE = 512  # drafted steps after which a length that none of them had is forgotten
_FRESH = 128  # steps after which a plain one is measured again,
_WAITED = 4  # if one comes soon: with prompts in every step there is none


class _Costs:
    """Of drafts of any length, in plain steps: a straight line, of which no part is below 0.

    Much of it is for a draft, not for each of its tokens: a draft model reads what was answered
    meanwhile, and the host waits for its tokens before it can plan. Shared out among few tokens
    that would make each of them look dear, and longer drafts, of which it is a smaller part, worse.
    """

    def __init__(self) -> None:
        # By length in whole tokens: the length and the cost of each. Their medians count.
        self._known: dict[int, deque[tuple[float, float]]] = {}
        self._seen: dict[int, int] = {}  # when one was measured last
        self._steps = 0
        self._line: tuple[float, float] | None = None
        self._fitted = True  # to all that is known

    def observe(self, length: float, cost: float) -> None:
        """A draft of so many tokens for each answer."""
        self._steps += 1
        key = max(round(length), 1)
        self._known.setdefault(key, deque(maxlen=_SAMPLES)).append((length, cost))
        self._seen[key] = self._steps
        for old in [each for each, when in self._seen.items() if self._steps - when > _STALE]:
            del self._known[old], self._seen[old]
        self._fitted = False

    def clear(self) -> None:
        """Measure anew."""
        self._known.clear()
        self._seen.clear()
        self._fitted = False

    @property
    def line(self) -> tuple[float, float] | None:
        """What a draft costs and what each of its tokens adds; None: it is not known yet."""
        if not self._fitted:
            self._line, self._fitted = self._fit(), True
        return self._line

    def _fit(self) -> tuple[float, float] | None:
        points = [
            (median(length for length, _ in each), max(median(cost for _, cost in each), 0.0))
            for each in self._known.values()
            if len(each) >= _ENOUGH
        ]
        if not points:
            return None
        x, y = (sum(each) / len(points) for each in zip(*points, strict=True))
        spread = sum((length - x) ** 2 for length, _ in points)
        if spread:
            slope = sum((length - x) * (cost - y) for length, cost in points) / spread
            slope = max(slope, _LEAST_SHARE * y / x)  # no token is for nothing
            if slope * x <= y:
                return y - slope * x, slope
        squares = sum(length**2 for length, _ in points)
        return 0.0, sum(length * cost for length, cost in points) / squares


class _Times:
    """Of steps that advance about so many answers."""

    def __init__(self) -> None:
        self.plain: deque[float] = deque(maxlen=_SAMPLES)  # seconds
        self.since = _FRESH  # steps with drafts since the last plain one
        self.waited = 0  # steps for a plain one
        self.drafting = _Costs()  # the time before the step
        self.verifying = _Costs()  # that it takes longer than a plain one


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
            times.drafting.observe(length, seconds / median(times.plain))

    def observe_verifying(self, rows: int, length: float, seconds: float) -> None:
        """The rest of a step that drafted so much and read no prompts."""
        times = self._of(rows)
        if times.plain and length > 0.0:
            times.verifying.observe(length, seconds / median(times.plain) - 1.0)

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
        return 1.0 + sum(fixed + each * length for fixed, each in self._lines(rows))

    def token(self, rows: int) -> tuple[float, float]:
        """What one more token for every answer adds to drafting, and to verifying."""
        (_, drafting), (_, verifying) = self._lines(rows)
        return drafting, verifying

    def _lines(self, rows: int) -> tuple[tuple[float, float], tuple[float, float]]:
        """What drafts cost before the step and in it, as `_Costs.line`."""
        known = [
            (abs(each - alike(rows)), drafting, verifying)
            for each, times in self._times.items()
            if (drafting := times.drafting.line) and (verifying := times.verifying.line)
        ]
        if not known:
            return (0.0, GUESSED_COST / 2), (0.0, GUESSED_COST / 2)
        _, drafting, verifying = min(known)
        return drafting, verifying

    def _of(self, rows: int) -> _Times:
        found = self._times.get(alike(rows))
        if found is None:
            found = self._times[alike(rows)] = _Times()
        return found


def alike(rows: int) -> int:
    """A number that sizes share which differ by less than a quarter."""
    return round(math.log(max(rows, 1)) / math.log(1.25))
