"""One service's looks at its pods and routers, and what they led to. Pure.

Ages are measured on a clock that never goes back: time stamps of the API server are believed once,
when a pod is seen first, so that a wall clock that jumps makes no pod old or young.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from aweigh_api.scaling import Scaling
from aweigh_api.spec import Rollout
from aweigh_operator import troubles, zero
from aweigh_operator.observe import Observed
from aweigh_operator.plan import Plan
from aweigh_operator.route import way
from aweigh_operator.scaling import counts, look, victim
from aweigh_operator.scaling.decision import Decision, Memory, decide
from aweigh_operator.scaling.look import Look
from aweigh_operator.scaling.rules import rules
from aweigh_operator.scaling.victim import Savings

LOOK_S = 15.0  # between two decisions
RETRY_S = 5.0  # while a pod does not answer
PATIENCE_S = 32.0  # since the last decision, before a pod that does not answer holds the number
FRESH_S = 4.0  # a report that decides is no older
WORTH_S = 300.0  # over which a cache is judged that may go
WORTH_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Autoscaling:
    """What is remembered of one service."""

    memory: Memory = field(default_factory=Memory)
    born_s: Mapping[str, float] = field(default_factory=dict)  # by uid, on our clock
    ready_s: Mapping[str, float] = field(default_factory=dict)  # likewise: ready without a break
    worth: tuple[tuple[float, Mapping[str, Savings]], ...] = ()  # a while ago, oldest first
    cheapest: tuple[str, ...] = ()  # uids, in the order in which pods shall go
    again_s: float | None = None  # when to look again; None: nothing is scaled

    @property
    def decision(self) -> Decision | None:
        """The last one."""
        return self.memory.decision


def looked(
    before: Autoscaling,
    observed: Observed,
    todo: Plan,
    now: datetime,
    now_s: float,
) -> Autoscaling:
    """After one more look, which decides if it is time to.

    Args:
        before: what is remembered.
        observed: the service now, with its pods' reports.
        todo: what is planned, with the pods that are wanted now.
        now: the time of day.
        now_s: of a clock that never goes back.
    """
    found = _aged(before, observed, now, now_s)
    scaling, replicas = todo.scaling, todo.replicas
    if scaling is None or (replicas == 0 and not _asleep(observed, scaling)):
        return replace(found, memory=Memory(), again_s=None)
    seen = Look(
        now_s=now_s,
        replicas=replicas,
        pods=_pods(found, observed, now_s),
        routers=_routers(observed),
        shown=zero.shown(observed, todo.template_hash, replicas),
        blocked=zero.blocked(observed, todo.template_hash),
        longest_start_s=_longest_start_s(observed),
        refused=troubles.refused(observed) is not None,
    )
    last_s = found.memory.looked_s
    since_s = float("inf") if last_s is None else now_s - last_s
    wakes = replicas == 0 and (seen.queue > 0 or seen.untried)
    if since_s < LOOK_S and not wakes:
        return replace(found, again_s=LOOK_S - since_s)
    if since_s < PATIENCE_S and replicas and _silent(seen, found.memory):
        return replace(found, again_s=RETRY_S)
    memory, _ = decide(found.memory, seen, rules(scaling))
    return replace(found, memory=memory, again_s=LOOK_S)


def _asleep(observed: Observed, scaling: Scaling) -> bool:
    """Whether no pod runs because nothing is asked."""
    return scaling.to_zero and not observed.body["spec"].get("suspend", False)


def _longest_start_s(observed: Observed) -> float:
    """That is believed of a pod: no longer than after which it is started again."""
    rollout = observed.body["spec"].get("rollout") or {}
    usual = Rollout().progress_deadline_seconds
    deadline_s = float(rollout.get("progressDeadlineSeconds", usual))
    return min(deadline_s, look.LONGEST_START_S)


def _silent(seen: Look, memory: Memory) -> bool:
    return bool(
        counts.silent(seen, memory.told) or counts.silent_routers(seen, memory.told_routers)
    )


def _routers(observed: Observed) -> list[look.Router] | None:
    """Those that serve, or end and still tell; None: requests go straight to the pods."""
    if not way(observed.children).by_router:
        return None
    return [
        look.Router(uid=pod.uid, state=observed.router_states.get(pod.uid))
        for pod in observed.routers
        if (pod.live and pod.ready) or (pod.leaving and pod.uid in observed.router_states)
    ]


def _aged(before: Autoscaling, observed: Observed, now: datetime, now_s: float) -> Autoscaling:
    pods = observed.live_pods
    born = {
        pod.uid: before.born_s.get(pod.uid, now_s - _age_s(pod.created_at, now)) for pod in pods
    }
    ready = {
        pod.uid: before.ready_s.get(pod.uid, now_s - _age_s(pod.ready_at, now))
        for pod in pods
        if pod.ready
    }
    found = replace(before, born_s=born, ready_s=ready)
    reports = {pod.uid: observed.states.get(pod.uid) for pod in pods}
    told = {uid: Savings.told(state) for uid, state in reports.items() if state is not None}
    worth = [one for one in before.worth if one[0] >= now_s - WORTH_S]
    first: dict[str, Savings] = {}
    for _, each in reversed(worth):  # of each pod the oldest
        first |= each
    cheapest = victim.cheapest_first(_pods(found, observed, now_s), first)
    if told and (not worth or now_s - worth[-1][0] >= WORTH_EVERY_S):
        worth.append((now_s, told))
    return replace(found, worth=tuple(worth), cheapest=tuple(cheapest))


def _pods(known: Autoscaling, observed: Observed, now_s: float) -> list[look.Pod]:
    return [
        look.Pod(
            uid=pod.uid,
            age_s=now_s - known.born_s[pod.uid],
            ready_for_s=now_s - known.ready_s[pod.uid] if pod.ready else None,
            unschedulable=pod.unschedulable is not None,
            restarted=pod.restarts > 0,
            state=observed.states.get(pod.uid),
        )
        for pod in observed.live_pods
    ]


def _age_s(since: datetime | None, now: datetime) -> float:
    return 0.0 if since is None else max(0.0, (now - since).total_seconds())
