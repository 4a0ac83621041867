"""Where prefixes go: the router's own choice among modelled pods, beside a plain Service.

A pod keeps the prefixes that were used last; what an answer takes does not depend on hits, so that
only the choice is compared.
"""

import heapq
import itertools
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import mean

from aweigh_router import choice
from aweigh_router.shares import Shares

GROUPS = 40
PODS = 4
KEPT = 20  # prefixes that a pod has room for
ROOM = 32  # answers
ANSWER_S = 2.0  # mean
PER_S = 20.0  # requests
REQUESTS = 8000
WARM_UP = REQUESTS // 4  # hits are counted from then on
SEEDS = range(10)


@dataclass
class ModelledPod:
    """What it keeps and computes."""

    keeps: int
    cached: OrderedDict[int, None] = field(default_factory=OrderedDict)
    running: int = 0
    answer_seconds: float = 0.0  # running answers over time

    def asks(self, group: int) -> bool:
        """A request with this prefix; returns whether it hits."""
        hit = group in self.cached
        self.cached[group] = None
        self.cached.move_to_end(group)
        while len(self.cached) > self.keeps:
            self.cached.popitem(last=False)
        return hit


@dataclass(frozen=True)
class Outcome:
    """Of one way to choose, the mean of all seeds; the worst seed's balance."""

    hit_rate: float
    busiest: float  # time-mean of running answers of the busiest pod ÷ the mean of all
    busiest_at_worst: float


Choose = Callable[[int, float], str]


def one_pod() -> Outcome:
    """With room for all."""
    return _mean([_played(seed, 1, GROUPS, _in_turn) for seed in SEEDS])


def service() -> Outcome:
    """Requests go to pods in turn."""
    return _mean([_played(seed, PODS, KEPT, _in_turn) for seed in SEEDS])


def router() -> Outcome:
    """As a router chooses."""
    return _mean([_played(seed, PODS, KEPT, _by_router) for seed in SEEDS])


def _played(
    seed: int,
    num_pods: int,
    keeps: int,
    chooser: Callable[[dict[str, ModelledPod], random.Random], Choose],
) -> tuple[float, float]:
    """The hit rate, and the busiest pod's part."""
    draw = random.Random(seed)
    pods = {f"chat-6d4b75cb6d-{draw.randrange(36**5)}": ModelledPod(keeps) for _ in range(num_pods)}
    choose = chooser(pods, draw)
    popularity = [1 / (rank + 1) for rank in range(GROUPS)]
    now_s, hits, ends = 0.0, 0, list[tuple[float, str]]()
    for number in range(REQUESTS):
        arrives_s = now_s + draw.expovariate(PER_S)
        while ends and ends[0][0] <= arrives_s:
            ended_s, name = heapq.heappop(ends)
            now_s = _pass(pods, now_s, ended_s)
            pods[name].running -= 1
        now_s = _pass(pods, now_s, arrives_s)
        group = draw.choices(range(GROUPS), popularity)[0]
        name = choose(group, now_s)
        hits += pods[name].asks(group) and number >= WARM_UP
        pods[name].running += 1
        heapq.heappush(ends, (now_s + draw.expovariate(1 / ANSWER_S), name))
    loads = [pod.answer_seconds for pod in pods.values()]
    return hits / (REQUESTS - WARM_UP), max(loads) / mean(loads)


def _pass(pods: dict[str, ModelledPod], from_s: float, to_s: float) -> float:
    for pod in pods.values():
        pod.answer_seconds += pod.running * (to_s - from_s)
    return to_s


def _in_turn(pods: dict[str, ModelledPod], draw: random.Random) -> Choose:
    turns = itertools.cycle(pods)
    return lambda group, now_s: next(turns)


def _by_router(pods: dict[str, ModelledPod], draw: random.Random) -> Choose:
    shares, salt = Shares(), draw.randbytes(8)

    def choose(group: int, now_s: float) -> str:
        prefix = salt + bytes([group])
        shares.add(prefix, 1, now_s)
        order = choice.order(prefix, draw.randbytes(8), shares.of(prefix, now_s), list(pods))
        loads = {name: pod.running for name, pod in pods.items()}
        return choice.pick(order, loads, lambda name: loads[name] < ROOM) or order.names[0]

    return choose


def _mean(played: list[tuple[float, float]]) -> Outcome:
    hits, busiest = zip(*played, strict=True)
    return Outcome(mean(hits), mean(busiest), max(busiest))
