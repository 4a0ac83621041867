"""Traffic of 40 minutes each, drawn with a seed: who asks when, and what prompts share."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

DURATION_S = 2400.0


@dataclass(slots=True)
class Request:
    """One request, and what became of it."""

    arrives_s: float
    group: int  # requests of a group begin with the same prefix
    prefix: int  # tokens that they share; 0: none
    prompt: int
    output: int
    left: int = -1  # prompt tokens to compute; -1: nobody has looked
    unshared: int = 0  # tokens that it alone holds
    first_s: float = math.inf
    end_s: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens of prompts and answers; logarithms of what is drawn are normal."""

    groups: int = 0  # 0: prompts share nothing
    prefix: int = 0
    unique: tuple[float, float] = (5.2, 0.5)
    output: tuple[float, float] = (5.4, 0.6)
    longest: int = 1200


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One kind of traffic."""

    name: str
    what: str
    rate: Callable[[float], float]  # requests per second at a second
    lengths: Lengths
    accepted_length: Callable[[float], float] = lambda second: 1.0  # tokens of a step with drafts
    duration_s: float = DURATION_S
    pods: int = 2  # that serve when it begins
    hard: bool = False  # no rule can keep every request in time
    reports_lost: Callable[[float], float] = lambda second: 0.0  # share of pods that do not answer

    def requests(self, seed: int) -> Iterator[Request]:
        """All of them, by arrival."""
        chance, now_s = random.Random(seed), 0.0
        weights = [1 / (each + 1) for each in range(self.lengths.groups)]
        while True:
            now_s += chance.expovariate(self.rate(now_s))
            if now_s >= self.duration_s:
                return
            yield self._request(now_s, weights, chance)

    def _request(self, now_s: float, weights: list[float], chance: random.Random) -> Request:
        sizes = self.lengths
        group = chance.choices(range(sizes.groups), weights)[0] if sizes.groups else -1
        unique = max(1, int(chance.lognormvariate(*sizes.unique)))
        output = max(1, int(min(sizes.longest, chance.lognormvariate(*sizes.output))))
        return Request(now_s, group, sizes.prefix, sizes.prefix + unique, output)


def _waves(second: float) -> float:
    return 20 + 30 * math.sin(math.pi * second / DURATION_S) ** 2


_SHARED = Lengths(groups=40, prefix=3000)
TRACES = (
    Trace(
        name="steady",
        what="20 requests/s, 12 prefixes of 1,200 tokens, long answers",
        rate=lambda second: 20.0,
        lengths=Lengths(groups=12, prefix=1200, unique=(5.6, 0.6), output=(5.8, 0.5)),
    ),
    Trace(
        name="shared",
        what="30 requests/s, 40 prefixes of 3,000 tokens",
        rate=lambda second: 30.0,
        lengths=_SHARED,
    ),
    Trace(
        name="plain",
        what="18 requests/s, prompts of about 900 tokens that share nothing",
        rate=lambda second: 18.0,
        lengths=Lengths(unique=(6.8, 0.5)),
    ),
    Trace(
        name="ramp",
        what="from 10 to 60 requests/s, as shared",
        rate=lambda second: 10 + 50 * second / DURATION_S,
        lengths=_SHARED,
    ),
    Trace(
        name="diurnal",
        what="20 to 50 and back to 20 requests/s, as shared, drafts give 2 tokens a step",
        rate=_waves,
        lengths=_SHARED,
        accepted_length=lambda second: 2.0,
    ),
    Trace(
        name="idle",
        what="3 requests/s, as shared",
        rate=lambda second: 3.0,
        lengths=_SHARED,
    ),
    Trace(
        name="burst",
        what="15 requests/s, and 60 in 5 of each 15 minutes, drafts give 2 tokens a step",
        rate=lambda second: 15.0 if second % 900 < 600 else 60.0,
        lengths=_SHARED,
        accepted_length=lambda second: 2.0,
        hard=True,
    ),
    Trace(
        name="draft gone bad",
        what="25 requests/s, as shared; drafts give 2.5 tokens a step, and 1.1 after 20 minutes",
        rate=lambda second: 25.0,
        lengths=_SHARED,
        accepted_length=lambda second: 2.5 if second < DURATION_S / 2 else 1.1,
        hard=True,
    ),
    Trace(
        name="cold start",
        what="as shared at 40 requests/s, on one pod that has just become ready",
        rate=lambda second: 40.0,
        lengths=_SHARED,
        pods=1,
        hard=True,
    ),
    Trace(
        name="lost reports",
        what="as shared; for 10 minutes each report is lost with probability one half",
        rate=lambda second: 30.0,
        lengths=_SHARED,
        reports_lost=lambda second: 0.5 if 900 <= second < 1500 else 0.0,
    ),
)
