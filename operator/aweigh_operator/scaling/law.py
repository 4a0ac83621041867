"""The smallest number of pods whose predicted steady state keeps every limit. Pure arithmetic.

An engine's step takes  base + prompt_token · p + row · d + kv_token · k  seconds, for p computed
prompt tokens, d answers and k cached tokens that they read. All answers of a step share the base;
nobody shares the rest, which is a pod's utilization. Hits take prompt tokens away, accepted drafts
steps:

    row_s          = row + kv_token · context
    work           = prompt tokens/s · (1 - hits) · prompt_token + requests/s · steps · row_s
    utilization(n) = (work + work that waits ÷ the time it shall be gone in) ÷ n
    step(n)        = max(base ÷ (1 - utilization), base + row_s)
    rows(n)        = requests/s · steps ÷ n · step         steps = output tokens ÷ accepted length
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf, log2

LARGEST_HIT_SHARE = 0.95
_ROWS_SHARE = 0.95  # of the answers that a pod computes together
_KV_SHARE = 0.85  # of its memory for keys and values
_OBJECTIVE_SHARE = 0.8  # of what an objective allows, so that its tail keeps it, too


class Limit(StrEnum):
    """What may ask for more pods."""

    UTILIZATION = "utilization"
    INTER_TOKEN = "inter-token time"
    FIRST_TOKEN = "time to first token"
    ROWS = "answers in a step"
    MEMORY = "keys and values"


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds that parts of a step take."""

    base: float
    prompt_token: float  # computed, not cached
    row: float  # an answer, with what is drafted for it
    kv_token: float  # read by a row


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What clients ask for."""

    requests: float  # per second
    prompt_tokens: float  # per second
    prompt_length: float  # tokens of a request
    output_length: float
    waiting: float  # requests
    context: float  # tokens that a row reads
    unshared: float  # of a running request in memory, shared with no other

    def times(self, factor: float) -> "Demand":
        """So much more traffic, with nothing more that waits."""
        return replace(
            self, requests=self.requests * factor, prompt_tokens=self.prompt_tokens * factor
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What caches and drafts deliver."""

    hit_share: float  # of prompt tokens
    accepted_length: float  # tokens of an answer in one step; 1 without drafts
    pods: int  # behind the hit share
    kept: float  # of the hit share when pods double, because a Service spreads prefixes

    def hits(self, pods: int) -> float:
        """Share of prompt tokens that so many pods would find in their caches."""
        lost = self.kept ** log2(pods / self.pods) if pods > self.pods else 1.0
        return min(self.hit_share * lost, LARGEST_HIT_SHARE)


NOTHING = Worth(hit_share=0.0, accepted_length=1.0, pods=1, kept=1.0)
"""Of caches and drafts that nobody knows of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What one pod can hold."""

    rows: int
    kv_tokens: int
    hot_tokens: int  # of prompts that are asked for again and again
    split: bool = False  # a router gives each pod its part of them

    def hot(self, pods: int) -> float:
        """Of the hot tokens, those that each of so many pods keeps."""
        return self.hot_tokens / pods if self.split else float(self.hot_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """What shall be kept."""

    utilization: float = 0.8
    inter_token_s: float = inf
    first_token_s: float = inf
    drain_s: float = 20.0  # in which what waits shall be gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """What so many pods would be like."""

    pods: int
    utilization: float
    inter_token_s: float
    first_token_s: float
    rows: float
    kv_tokens: float
    hit_share: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The number of pods that is needed."""

    pods: int
    limit: Limit | None  # that fewer pods would break; None: one pod keeps all
    unreachable: tuple[Limit, ...]  # that no number of pods up to the most keeps: they do not count
    by_load: tuple[Limit, ...] = ()  # those of them that more pods would keep


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """All that decides about a number of pods."""

    costs: Costs
    demand: Demand
    worth: Worth
    room: Room
    aim: Aim

    def work(self, pods: int) -> float:
        """Seconds of work that arrive in a second, at so many pods."""
        computed = self.demand.prompt_tokens * (1.0 - self.worth.hits(pods))
        return computed * self.costs.prompt_token + self.demand.requests * self._answer_s

    def request_s(self, pods: int) -> float:
        """Seconds of work in one request."""
        computed = self.demand.prompt_length * (1.0 - self.worth.hits(pods))
        return computed * self.costs.prompt_token + self._answer_s

    def overrun(self, pods: int, seconds: float) -> "Law":
        """The same law for the moment after some time in which so many pods could not keep up."""
        request_s = self.request_s(pods)  # 0 where a fit knows no costs yet
        late = max(0.0, self.work(pods) - pods) * seconds / request_s if request_s > 0 else 0.0
        return replace(self, demand=replace(self.demand, waiting=self.demand.waiting + late))

    def calm(self, factor: float = 1.0) -> "Law":
        """The same law for so many times the traffic, with nothing that waits."""
        return replace(self, demand=replace(self.demand.times(factor), waiting=0.0))

    @property
    def _answer_s(self) -> float:
        return self._steps * self._row_s

    @property
    def _steps(self) -> float:
        """Of one answer."""
        return self.demand.output_length / self.worth.accepted_length

    @property
    def _row_s(self) -> float:
        return self.costs.row + self.costs.kv_token * self.demand.context

    def steady(self, pods: int) -> Steady:
        """The steady state of so many pods."""
        costs, demand, worth = self.costs, self.demand, self.worth
        missed = 1.0 - worth.hits(pods)
        steps, row_s = self._steps, self._row_s
        first_s = missed * demand.prompt_length * costs.prompt_token
        waits_s = demand.waiting * self.request_s(pods)
        work = self.work(pods)
        used = (work + waits_s / self.aim.drain_s) / pods
        idle = 1.0 - used
        step_s = max(costs.base / idle, costs.base + row_s) if idle > 0.0 else inf
        rows = demand.requests * steps / pods * step_s if demand.requests else 0.0
        return Steady(
            pods=pods,
            utilization=used,
            inter_token_s=step_s / worth.accepted_length,
            first_token_s=step_s + first_s / idle if idle > 0.0 else inf,
            rows=rows,
            kv_tokens=rows * demand.unshared + self.room.hot(pods),
            hit_share=1.0 - missed,
        )

    def broken(self, pods: int, share: float = 1.0) -> set[Limit]:
        """Limits that so many pods would not keep.

        Args:
            pods: at least 1.
            share: of every limit that may be used.
        """
        found, aim = self.steady(pods), self.aim
        used = {
            Limit.UTILIZATION: found.utilization / aim.utilization,
            Limit.INTER_TOKEN: _part(found.inter_token_s, _OBJECTIVE_SHARE * aim.inter_token_s),
            Limit.FIRST_TOKEN: _part(found.first_token_s, _OBJECTIVE_SHARE * aim.first_token_s),
            Limit.ROWS: found.rows / (_ROWS_SHARE * self.room.rows),
            Limit.MEMORY: found.kv_tokens / (_KV_SHARE * self.room.kv_tokens),
        }
        return {limit for limit, part in used.items() if part > share}

    def choose(self, most: int) -> Choice:
        """The smallest number of pods, at most so many.

        A limit that none of them keeps limits nothing, but for the utilization.
        """
        broken = [self.broken(pods) for pods in range(1, most + 1)]
        unreachable = self._unreachable(broken)
        pods = next((n for n, each in enumerate(broken, 1) if each <= unreachable), most)
        fewer = broken[pods - 2] - unreachable if pods > 1 else set()
        by_load = unreachable - self._idle.broken(most)
        return Choice(pods, first(fewer), tuple(sorted(unreachable)), tuple(sorted(by_load)))

    def _unreachable(self, broken: list[set[Limit]]) -> set[Limit]:
        """Limits that no number of pods keeps, be it loaded no more than it may be.

        Where all numbers are overloaded, those that one pod without any load breaks.
        """
        loaded = [each for each in broken if Limit.UTILIZATION not in each]
        return set.intersection(*loaded) if loaded else self._idle.broken(1)

    @property
    def _idle(self) -> "Law":
        """The same law for no load at all."""
        nobody = replace(self.demand, requests=0.0, prompt_tokens=0.0, waiting=0.0)
        return replace(self, demand=nobody)

    def holds(self, pods: int, share: float, besides: tuple[Limit, ...]) -> bool:
        """Whether so many pods keep a share of every limit but some."""
        return self.broken(pods, share) <= set(besides)


def _part(value: float, bound: float) -> float:
    """Of a bound that may be infinite: then nothing of it is used."""
    return 0.0 if bound == inf else value / bound


def first(limits: set[Limit]) -> Limit | None:
    """The one that is told; None: there is none."""
    order: Callable[[Limit], int] = list(Limit).index
    return min(limits, key=order, default=None)
