"""How many pods there shall be: the law, held back by guards. Pure: same looks, same decisions.

A missing report holds; pods that start count as there; while no node takes one, none is added; and
one pod goes at a time, after a quiet time in which nothing asked for it, if the law holds without.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from math import ceil

from aweigh_operator.scaling import estimates
from aweigh_operator.scaling.estimates import FROZEN_S, Estimates
from aweigh_operator.scaling.law import NOTHING, Choice, Law, Limit, Worth
from aweigh_operator.scaling.look import Look
from aweigh_operator.scaling.rules import Behavior, Rules, Select

LEAST_LOOK_S = 10.0  # between two looks: less says nothing of rates
_KV_SHARE = 0.85  # of a pod's memory, where nothing but that is known
_LOOKS_AHEAD_S = 30.0  # until traffic is noticed and decided about, on top of a pod's start
_MOST_FOR_BACKLOG = 2  # times as many pods as the load itself needs
_FASTEST = 2.0  # times as many pods at once, while nothing but memory is known


class Why(StrEnum):
    """Reason of a decision, for the condition ScalingActive and for events."""

    STEADY = "Steady"
    LOAD_GREW = "LoadGrew"
    LOAD_FELL = "LoadFell"
    BOUNDS = "Bounds"  # minReplicas or maxReplicas moved it
    AT_MAXIMUM = "AtMaximum"  # more pods are needed than may be
    WAITING = "WaitingForReports"  # nothing was measured yet
    REPORTS_MISSING = "ReportsMissing"
    UNSCHEDULABLE = "Unschedulable"
    SETTLING = "Settling"  # fewer would do: the quiet time runs, or a pod starts


@dataclass(frozen=True, slots=True)
class Decision:
    """A number of pods, and why."""

    replicas: int
    why: Why
    sentence: str
    unreachable: tuple[Limit, ...] = ()  # limits that no number of pods keeps


@dataclass(frozen=True, slots=True)
class Vote:
    """What the law asked for at one look."""

    at_s: float
    needed: int  # pods
    enough: int  # pods that keep some distance from every limit, so that none is asked for again


@dataclass(frozen=True, slots=True)
class Memory:
    """What one decision leaves to the next."""

    last: Look | None = None
    decision: "Decision | None" = None  # of that look
    known: Estimates = field(default_factory=Estimates)
    votes: tuple["Vote", ...] = ()  # while a quiet time runs
    since_s: float = 0.0  # when the first look was
    changes: tuple[tuple[float, int], ...] = ()  # from when on there were how many pods


def decide(memory: Memory, look: Look, rules: Rules) -> tuple[Memory, Decision]:
    """The number of pods from now on.

    Args:
        memory: of the decision before; a new one at first.
        look: at the pods, now.
        rules: of this service.
    """
    memory, decision = _decided(_noted(memory, look), look, rules)
    return replace(memory, decision=decision), decision


def _decided(memory: Memory, look: Look, rules: Rules) -> tuple[Memory, Decision]:
    bounded = min(max(look.replicas, rules.least), rules.most)
    if bounded != look.replicas:
        sentence = (
            f"{look.replicas} pods are outside of minReplicas {rules.least} and maxReplicas "
            f"{rules.most}"
        )
        return memory, Decision(bounded, Why.BOUNDS, sentence)
    if not look.serving:
        return memory, Decision(look.replicas, Why.WAITING, f"none of {look.replicas} pods serves")
    if look.silent:
        return memory, _without_reports(look, rules)
    if memory.last is None:
        sentence = f"{look.replicas} pods stay: their load is measured between two looks"
        memory = replace(memory, last=look, since_s=look.now_s)
        return memory, Decision(look.replicas, Why.WAITING, sentence)
    if look.now_s - memory.last.now_s < LEAST_LOOK_S and memory.decision is not None:
        return memory, memory.decision  # what it asked for may not be there yet
    frozen = bool(memory.changes) and look.now_s - memory.changes[-1][0] < FROZEN_S
    known = estimates.learned(memory.known, memory.last, look, frozen=frozen)
    memory = replace(memory, last=look, known=known)
    law = _law(known, look, rules)
    if law is None:
        return memory, _by_memory(known, look, rules)
    return _by_law(memory, law, look, rules)


def _noted(memory: Memory, look: Look) -> Memory:
    """Whoever has changed the number of pods, caches must settle."""
    if not memory.changes:
        return replace(memory, changes=((float("-inf"), look.replicas),))
    if memory.changes[-1][1] == look.replicas:
        return memory
    return replace(memory, changes=(*memory.changes[-63:], (look.now_s, look.replicas)))


def _without_reports(look: Look, rules: Rules) -> Decision:
    silent = len(look.silent)
    told = f"{silent} of {len(look.serving)} serving pods do not report their load"
    fallback = rules.fallback_replicas
    if fallback is None or fallback <= look.replicas:
        return Decision(look.replicas, Why.REPORTS_MISSING, f"{look.replicas} pods stay: {told}")
    raised = min(fallback, rules.most)
    return Decision(raised, Why.REPORTS_MISSING, f"{raised} pods, as fallback says: {told}")


def _law(known: Estimates, look: Look, rules: Rules) -> Law | None:
    states = [pod.state for pod in look.pods if pod.state is not None]
    warm = [pod.state for pod in look.pods if pod.warm and pod.state is not None]
    costs, room = estimates.costs(known, warm or states), estimates.room(states)
    if costs is None or room is None or known.requests is None:
        return None
    if rules.count_hits and known.hit_share is None and known.prompt_tokens:
        return None  # what a cold cache costs is no reason for more pods
    return Law(
        costs=costs,
        demand=estimates.demand(known, look),
        worth=_worth(known, rules),
        room=room if rules.count_hits else replace(room, hot_tokens=0),
        aim=rules.aim,
    )


def _worth(known: Estimates, rules: Rules) -> Worth:
    found = estimates.worth(known)
    if not rules.count_hits:
        found = replace(NOTHING, accepted_length=found.accepted_length)
    return found if rules.count_drafts else replace(found, accepted_length=1.0)


def _by_memory(known: Estimates, look: Look, rules: Rules) -> Decision:
    """Before anything of steps is known: answers in flight, by what memory holds."""
    states = [pod.state for pod in look.serving if pod.state is not None]
    room = estimates.room(states)
    if room is None:
        sentence = f"{look.replicas} pods stay: none has told yet what it can hold"
        return Decision(look.replicas, Why.WAITING, sentence)
    busy = sum((state.running or 0) + (state.waiting or 0) for state in states)
    unshared = estimates.demand(known, look).unshared
    one = min(_KV_SHARE * room.kv_tokens / unshared, float(room.rows))
    needed = max(look.replicas, min(ceil(busy / one), int(_FASTEST * look.replicas)))
    pods = min(needed, rules.most)
    sentence = (
        f"{busy} requests are in flight and a pod holds about {one:.0f}: {pods} pods, until steps, "
        "hits and drafts are measured"
    )
    return Decision(pods, Why.LOAD_GREW if pods > look.replicas else Why.WAITING, sentence)


def _by_law(memory: Memory, law: Law, look: Look, rules: Rules) -> tuple[Memory, Decision]:
    ahead_s = memory.known.start_s + _LOOKS_AHEAD_S
    ahead = replace(law, demand=law.demand.times(estimates.growth(memory.known, ahead_s)))
    choice = ahead.choose(rules.most)
    # What piles up until new pods serve shall be gone soon, too, but not at any price.
    urgent = ahead.overrun(max(1, look.replicas), ahead_s).choose(rules.most)
    needed = min(urgent.pods, _MOST_FOR_BACKLOG * choice.pods, rules.most)
    enough = next(
        n
        for n in range(choice.pods, rules.most + 1)
        if n == rules.most or ahead.holds(n, 1.0 - rules.tolerance, choice.unreachable)
    )
    since_s = look.now_s - max(rules.up.quiet_s, rules.down.quiet_s)
    votes = tuple(vote for vote in memory.votes if vote.at_s >= since_s)
    memory = replace(memory, votes=(*votes, Vote(look.now_s, needed, enough)))
    if needed > look.replicas:
        return memory, _more(memory, ahead, choice, look, rules)
    return memory, _fewer(memory, law, choice, look, rules)


def _more(memory: Memory, law: Law, choice: Choice, look: Look, rules: Rules) -> Decision:
    needed, now = memory.votes[-1].needed, look.replicas
    why_so_many = f"{choice.pods} for the load"
    if choice.limit is not None:
        why_so_many += f", as {choice.limit} would pass its limit with {choice.pods - 1}"
    if needed > choice.pods:
        why_so_many += f", and {needed - choice.pods} for what piles up until they serve"
    if any(pod.unschedulable for pod in look.pods):
        sentence = (
            f"{needed} pods are needed ({why_so_many}), but no node takes one of the {now}; "
            f"{_numbers(law, now)}"
        )
        return Decision(now, Why.UNSCHEDULABLE, sentence, choice.unreachable)
    since_s = look.now_s - rules.up.quiet_s
    target = min(vote.needed for vote in memory.votes if vote.at_s >= since_s)
    pods = max(min(target, _reachable(memory.changes, look, rules.up, +1)), now)
    if pods == now:
        sentence = f"{now} pods stay for a while, as behavior.scaleUp says: {needed} are needed"
        return Decision(pods, Why.SETTLING, f"{sentence} ({why_so_many})", choice.unreachable)
    too_few = not law.holds(pods, 1.0, choice.unreachable)
    return Decision(
        pods,
        Why.AT_MAXIMUM if pods == rules.most and too_few else Why.LOAD_GREW,
        f"{now} → {pods} pods: {why_so_many}; {_numbers(law, pods)}",
        choice.unreachable,
    )


def _fewer(memory: Memory, law: Law, choice: Choice, look: Look, rules: Rules) -> Decision:
    now = look.replicas
    at_most = choice.pods == rules.most and not law.holds(now, 1.0, choice.unreachable)
    stays = Decision(
        now,
        Why.AT_MAXIMUM if at_most else Why.STEADY,
        f"{now} pods: {_numbers(law, now)}",
        choice.unreachable,
    )
    since_s = look.now_s - rules.down.quiet_s
    enough = max(vote.enough for vote in memory.votes if vote.at_s >= since_s)
    pods = max(enough, rules.least, _reachable(memory.changes, look, rules.down, -1))
    if memory.votes[-1].enough >= now or now <= rules.least:
        return stays
    if any(pod.ready_for_s is None for pod in look.pods):
        return replace(stays, why=Why.SETTLING, sentence=f"{now} pods stay until all of them serve")
    if pods >= now or look.now_s - memory.since_s < rules.down.quiet_s:
        sentence = (
            f"{now} pods stay: {memory.votes[-1].enough} would do, once nothing has asked for more "
            f"for {rules.down.quiet_s:.0f} s; {_numbers(law, now)}"
        )
        return replace(stays, why=Why.SETTLING, sentence=sentence)
    sentence = f"{now} → {pods} pods: they are enough; {_numbers(law, pods)}"
    return Decision(pods, Why.LOAD_FELL, sentence, choice.unreachable)


def _reachable(
    changes: Sequence[tuple[float, int]], look: Look, behavior: Behavior, direction: int
) -> int:
    """The number of pods that policies let one direction go to."""
    if behavior.select is Select.DISABLED:
        return look.replicas
    if not behavior.policies:
        return look.replicas + direction * 1_000_000
    reaches = []
    for policy in behavior.policies:
        moved = _moved(changes, look.now_s - policy.period_s, direction)
        at_first = look.replicas - direction * moved
        reaches.append(at_first + direction * policy.reach(at_first))
    farthest = max(reaches) if direction > 0 else min(reaches)
    nearest = min(reaches) if direction > 0 else max(reaches)
    return farthest if behavior.select is Select.MAX else nearest


def _moved(changes: Sequence[tuple[float, int]], since_s: float, direction: int) -> int:
    """Pods that came, or went, since then."""
    steps = (
        direction * (after - before)
        for (_, before), (at_s, after) in pairwise(changes)
        if at_s > since_s
    )
    return sum(step for step in steps if step > 0)


def _numbers(law: Law, pods: int) -> str:
    """What decides, with its figures."""
    found, demand = law.steady(pods), law.demand
    parts = [
        f"{demand.requests:.2g} requests/s with {demand.prompt_tokens:.3g} prompt tokens/s",
        f"{found.hit_share:.0%} of them cached",
        f"{law.worth.accepted_length:.2f} tokens a step",
        f"utilization {found.utilization:.0%} of {law.aim.utilization:.0%} with {pods}",
    ]
    if demand.waiting:
        parts.append(f"{demand.waiting:.0f} requests wait")
    return ", ".join(parts)
