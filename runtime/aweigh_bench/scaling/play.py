"""Plays one trace against one rule: what was late, and what it cost."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from aweigh_api.state import State
from aweigh_bench.scaling.pod import Machine, Pod
from aweigh_bench.scaling.router import TICK_S, Router
from aweigh_bench.scaling.traces import Request, Trace
from aweigh_operator.scaling import look as seen
from aweigh_operator.scaling.look import Look
from aweigh_operator.scaling.victim import Savings, cheapest_first

LOOK_S = 15.0
MOST_PODS = 40
FIRST_TOKEN_S, INTER_TOKEN_S = 2.0, 0.040  # a request that takes longer is late
VICTIM_WINDOW_LOOKS = 20  # over which a cache's worth is judged


@dataclass(frozen=True, slots=True)
class Played:
    """What a rule has made of a trace."""

    requests: int
    late: int
    pod_hours: float
    flips: int  # changes of direction
    lost_tokens: int  # cached ones of pods that went
    pods: tuple[tuple[float, int], ...] = field(repr=False, default=())  # by second

    @property
    def late_percent(self) -> float:
        """Of all requests."""
        return 100.0 * self.late / max(1, self.requests)


def play(
    trace: Trace, rule: Callable[[Look], int], seed: int, machine: Machine, *, routed: bool = False
) -> Played:
    """A pod that goes finishes its own requests.

    Args:
        trace: who asks when.
        rule: how many pods there shall be.
        seed: of all that is drawn.
        machine: what a pod can do.
        routed: a router holds requests; else they go to pods by chance, as a Service sends them.
    """
    return _Play(trace, rule, seed, machine, Router() if routed else None).run()


class _Play:
    def __init__(
        self,
        trace: Trace,
        rule: Callable[[Look], int],
        seed: int,
        machine: Machine,
        router: Router | None,
    ) -> None:
        self._trace = trace
        self._rule = rule
        self._machine = machine
        self._router = router
        self._requests = list(trace.requests(seed))
        self._chance = random.Random(seed + 1)
        self._born = 0
        self._pods = [self._pod(-100.0, 0.0) for _ in range(trace.pods)]
        self._leaving: list[Pod] = []
        self._reports: list[dict[str, State]] = []
        self._pod_s = 0.0
        self._lost = 0
        self._sizes: list[tuple[float, int]] = [(0.0, trace.pods)]

    def run(self) -> Played:
        coming, now_s = iter(self._requests), 0.0
        request = next(coming, None)
        while now_s < self._trace.duration_s:
            end_s = now_s + LOOK_S
            self._draft(now_s)
            while request is not None and request.arrives_s < end_s:
                self._route(now_s, request.arrives_s)
                now_s = request.arrives_s
                self._send(request)
                request = next(coming, None)
            self._route(now_s, end_s)
            for pod in (*self._pods, *self._leaving):
                pod.run(end_s)
            self._pod_s += LOOK_S * (len(self._pods) + len(self._leaving))
            self._leaving = [pod for pod in self._leaving if pod.busy]
            now_s = end_s
            self._resize(now_s)
        return self._played()

    def _pod(self, born_s: float, ready_s: float) -> Pod:
        self._born += 1
        return Pod(f"pod-{self._born}", born_s, ready_s, self._machine)

    def _draft(self, now_s: float) -> None:
        length = self._trace.accepted_length(now_s)
        for pod in (*self._pods, *self._leaving):
            pod.draft(length)

    def _route(self, since_s: float, until_s: float) -> None:
        """Requests that wait go to pods as soon as those have room."""
        now_s = since_s + TICK_S
        while self._router is not None and self._router.num_waiting and now_s < until_s:
            self._dispatch(self._router, now_s)
            now_s += TICK_S

    def _dispatch(self, router: Router, now_s: float) -> None:
        ready = [pod for pod in self._pods if pod.ready_s <= now_s]
        for pod in ready:
            pod.run(now_s)
        router.send(ready, now_s)

    def _send(self, request: Request) -> None:
        if self._router is not None:
            self._router.take(request)
            self._dispatch(self._router, request.arrives_s)
            return
        ready = [pod for pod in self._pods if pod.ready_s <= request.arrives_s] or self._pods
        pod = self._chance.choice(ready)
        pod.run(request.arrives_s)
        pod.take(request)

    def _look(self, now_s: float) -> Look:
        lost = self._trace.reports_lost(now_s)
        pods = [
            seen.Pod(
                uid=pod.uid,
                age_s=now_s - pod.born_s,
                ready_for_s=now_s - pod.ready_s if pod.ready_s <= now_s else None,
                state=pod.report(now_s)
                if pod.ready_s <= now_s and self._chance.random() >= lost
                else None,
            )
            for pod in self._pods
        ]
        routers = None
        if self._router is not None:
            routers = [seen.Router(uid="router", state=self._router.report(now_s))]
        return Look(now_s=now_s, replicas=len(self._pods), pods=pods, routers=routers)

    def _resize(self, now_s: float) -> None:
        look = self._look(now_s)
        self._reports = [*self._reports[-VICTIM_WINDOW_LOOKS:], look.states]
        wanted = min(max(1, self._rule(look)), MOST_PODS)
        if wanted > len(self._pods):
            ready_s = now_s + self._machine.start_s
            self._pods += [self._pod(now_s, ready_s) for _ in range(wanted - len(self._pods))]
        elif wanted < len(self._pods):
            self._let_go(look, len(self._pods) - wanted)
        if wanted != self._sizes[-1][1]:
            self._sizes.append((now_s, wanted))

    def _let_go(self, look: Look, count: int) -> None:
        before = {uid: Savings.told(state) for uid, state in self._reports[0].items()}
        going = set(cheapest_first(look.pods, before)[:count])
        for pod in self._pods:
            if pod.uid in going:
                self._lost += pod.cached_tokens
                self._leaving.append(pod)
        self._pods = [pod for pod in self._pods if pod.uid not in going]

    def _played(self) -> Played:
        return Played(
            requests=len(self._requests),
            late=sum(_is_late(each, self._trace.duration_s) for each in self._requests),
            pod_hours=self._pod_s / 3600,
            flips=_flips([pods for _, pods in self._sizes]),
            lost_tokens=self._lost,
            pods=tuple(self._sizes),
        )


def _is_late(request: Request, until_s: float) -> bool:
    """What has not even begun when the trace ends is late once its time is over."""
    if min(request.first_s, until_s) - request.arrives_s > FIRST_TOKEN_S:
        return True
    if request.end_s == math.inf or request.output < 2:
        return False
    return (request.end_s - request.first_s) / request.output > INTER_TOKEN_S


def _flips(sizes: list[int]) -> int:
    rises = [after > before for before, after in pairwise(sizes)]
    return sum(one != other for one, other in pairwise(rises))
