"""What load and memory ask for, before any guard: by the law, or by memory until steps are fitted.

Nothing here knows how many pods there were at other times. Pure.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

from aweigh_operator.scaling import estimates
from aweigh_operator.scaling.estimates import Estimates
from aweigh_operator.scaling.law import NOTHING, Choice, Law, Limit, Room, Worth, first
from aweigh_operator.scaling.look import Look
from aweigh_operator.scaling.rules import Rules

_KV_SHARE = 0.85  # of a pod's memory, where nothing but that is known
_LOOKS_AHEAD_S = 30.0  # until traffic is noticed and decided about, on top of a pod's start
_LONGEST_GUESS_S = 120.0  # of a pod's start: over a longer time chance asks for pods, too
_MOST_FOR_BACKLOG = 2  # times as many pods as the load itself needs
_FASTEST = 2  # times as many pods at once, while nothing but memory is known
_TOLD_GROWTH = 1.02  # times as much traffic: less is not worth a word


@dataclass(frozen=True, slots=True)
class Burst:
    """A jump of the traffic that the pods there could not take: one like it is expected again."""

    seen_s: float  # when there was so much last
    requests: float  # per second


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A number of pods that is needed, and one that would do."""

    needed: int
    enough: int  # keeps some distance from every limit, so that no more are asked for at once
    load: int  # the same, if nothing waited
    burst: int = 0  # the same for the traffic of a burst
    because: str  # so many are needed
    numbers: Callable[[int], str]  # that decide, of so many pods
    held: Callable[[int], str]  # why one pod less would not do; empty: it would
    too_much: bool = False  # even the most pods that may be are too few
    unreachable: tuple[Limit, ...] = ()  # limits that no number of pods that may be keeps
    by_load: tuple[Limit, ...] = ()  # those of them that more pods would keep


def wish(known: Estimates, look: Look, rules: Rules, burst: Burst | None = None) -> Wish | None:
    """What is asked for.

    Args:
        known: of demand, hits and drafts.
        look: at the pods, now.
        rules: of this service.
        burst: what traffic is expected to jump to again.

    Returns:
        None where no pod has told what it can hold.
    """
    room = estimates.room(look)
    if room is None:
        return None
    by_memory = _by_memory(known, look, rules, room)
    law = _law(known, look, rules, room)
    if law is None:
        return by_memory
    by_law = replace(_by_law(known, law, look, rules), burst=_for_burst(law, burst, rules))
    if known.hit_share is None and rules.count_hits and known.prompt_tokens:
        return _without_hits(by_law, by_memory, look)
    return by_law


def _law(known: Estimates, look: Look, rules: Rules, room: Room) -> Law | None:
    if known.costs is None or known.requests is None:
        return None
    return Law(
        costs=known.costs,
        demand=estimates.demand(known, look),
        worth=_worth(known, look, rules),
        room=room if rules.count_hits else replace(room, hot_tokens=0),
        aim=rules.aim,
    )


def _worth(known: Estimates, look: Look, rules: Rules) -> Worth:
    found = estimates.worth(known, look)
    if not rules.count_hits:
        found = replace(NOTHING, accepted_length=found.accepted_length)
    return found if rules.count_drafts else replace(found, accepted_length=1.0)


def _by_law(known: Estimates, law: Law, look: Look, rules: Rules) -> Wish:
    ahead_s = _start_s(known) + _LOOKS_AHEAD_S
    growth = estimates.growth(known, ahead_s)
    ahead = replace(law, demand=law.demand.times(growth))
    choice = ahead.choose(rules.most)
    # What piles up until new pods serve shall be gone soon, too, but not at any price.
    urgent = ahead.overrun(max(1, look.replicas), ahead_s).choose(rules.most)
    needed = min(urgent.pods, _MOST_FOR_BACKLOG * choice.pods, rules.most)
    expected = f" ({_figure(ahead.demand.requests)} expected in {ahead_s:.0f} s)"
    return Wish(
        needed=needed,
        enough=_enough(ahead, choice, rules),
        load=_enough(ahead.calm(), ahead.calm().choose(rules.most), rules),
        because=_because(needed, choice),
        numbers=lambda pods: _numbers(law, ahead, pods, expected if growth > _TOLD_GROWTH else ""),
        held=lambda pods: _held(ahead, pods, choice, rules),
        too_much=not ahead.holds(rules.most, 1.0, choice.unreachable),
        unreachable=choice.unreachable,
        by_load=choice.by_load,
    )


def _start_s(known: Estimates) -> float:
    """Over which traffic is extrapolated: pods that only began again tell far too long a time."""
    if known.start_s is None:
        return estimates.UNKNOWN_START_S
    return known.start_s if known.start_seen else min(known.start_s, _LONGEST_GUESS_S)


def _for_burst(law: Law, burst: Burst | None, rules: Rules) -> int:
    """Pods that a burst would need now: hits and drafts may be others than they were in it."""
    if burst is None or not law.demand.requests:
        return 0
    like_it = law.calm(burst.requests / law.demand.requests)
    return _enough(like_it, like_it.choose(rules.most), rules)


def _enough(law: Law, choice: Choice, rules: Rules) -> int:
    """From the chosen number on, the first that keeps its distance from every limit."""
    share = 1.0 - rules.tolerance
    numbers = range(choice.pods, rules.most)
    return next((n for n in numbers if law.holds(n, share, choice.unreachable)), rules.most)


def _by_memory(known: Estimates, look: Look, rules: Rules, room: Room) -> Wish:
    """Before anything of steps is known: requests in flight, by what memory holds."""
    states = [pod.state for pod in look.serving if pod.state is not None]
    busy = sum((state.running or 0) + (state.waiting or 0) for state in states) + look.queue
    unshared = estimates.demand(known, look).unshared
    one = min(_KV_SHARE * room.kv_tokens / unshared, float(room.rows))
    wanted = max(1, ceil(busy / one))
    numbers = f"{busy} requests are in flight, and steps, hits and drafts are not measured yet"
    enough = min(max(1, ceil(busy / (one * (1.0 - rules.tolerance)))), rules.most)
    return Wish(
        needed=min(wanted, max(1, _FASTEST * look.replicas), rules.most),
        enough=enough,
        load=enough,
        because=f"a pod holds about {one:.0f} requests",
        numbers=lambda pods: numbers,
        held=lambda pods: f"a pod holds about {one:.0f} requests" if pods > 1 else "",
        too_much=wanted > rules.most,
    )


def _without_hits(by_law: Wish, by_memory: Wish, look: Look) -> Wish:
    """What cold caches cost is no reason for more pods, though one for not fewer."""
    if by_memory.needed > look.replicas:
        return by_memory
    return replace(by_law, needed=min(by_law.needed, look.replicas), too_much=False)


def _because(needed: int, choice: Choice) -> str:
    because = f"{choice.pods} for the load"
    if choice.limit is not None:
        because += f", as {choice.limit} would pass its limit with {choice.pods - 1}"
    if needed > choice.pods:
        because += f", and {needed - choice.pods} for what piles up until they serve"
    return because


def _held(law: Law, pods: int, choice: Choice, rules: Rules) -> str:
    if pods == 1:
        return ""
    limit = first(law.broken(pods - 1, 1.0 - rules.tolerance) - set(choice.unreachable))
    return "" if limit is None else f"{limit} would be too near its limit with {pods - 1}"


def _numbers(law: Law, ahead: Law, pods: int, expected: str) -> str:
    """What was measured, and what it will be like with so many pods."""
    found, demand = ahead.steady(pods), law.demand
    parts = [
        f"{_figure(demand.requests)} requests/s{expected} with "
        f"{_figure(demand.prompt_tokens)} prompt tokens/s",
        f"{found.hit_share:.0%} of them cached",
        f"{law.worth.accepted_length:.2f} tokens a step",
        f"utilization {found.utilization:.0%} of {law.aim.utilization:.0%} with {pods}",
    ]
    if demand.waiting:
        parts.append(f"{demand.waiting:.0f} requests wait")
    return ", ".join(parts)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 10.0 else f"{value:.2g}"
