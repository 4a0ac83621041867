"""How many pods there shall be: what is asked for, held back by guards. Pure: no clock, no I/O.

A missing report holds; pods that start count as there; one that no node takes, or that the API
server refuses, does not, and while there is one, none is added; and one pod goes at a time, after a
quiet time in which nothing asked for it, if the law holds without.
The last ones go once nothing was asked for long, where they may, and the first comes at a request.
"""

from dataclasses import dataclass, field, replace

from aweigh_api.reasons import Reason
from aweigh_api.router_state import RouterState
from aweigh_api.scaling import LONGEST_PERIOD_S
from aweigh_api.state import State
from aweigh_operator.scaling import counts, estimates, idle
from aweigh_operator.scaling.estimates import FROZEN_S, Estimates
from aweigh_operator.scaling.idle import Idle
from aweigh_operator.scaling.law import Limit
from aweigh_operator.scaling.look import Look, Pod
from aweigh_operator.scaling.policies import reachable
from aweigh_operator.scaling.rules import Rules, Select
from aweigh_operator.scaling.wishes import Burst, Wish, wish

LEAST_LOOK_S = 10.0  # between two looks: less says nothing of rates
LONGEST_LOOK_S = 60.0  # between two looks of one quiet time
_AS_MUCH = 0.8  # of a burst's traffic: it goes on
_STUCK = 3.0  # times as long as pods need to start: nothing waits for such a pod


@dataclass(frozen=True, slots=True)
class Decision:
    """A number of pods, and why."""

    replicas: int
    reason: Reason
    sentence: str
    unreachable: tuple[Limit, ...] = ()  # limits that no number of pods that may be keeps
    by_load: tuple[Limit, ...] = ()  # those of them that more pods would keep


@dataclass(frozen=True, slots=True)
class Vote:
    """What was asked for at one look; one that could not judge votes for what there is."""

    at_s: float
    needed: int
    enough: int


@dataclass(frozen=True, slots=True)
class Memory:
    """What one decision leaves to the next."""

    decision: Decision | None = None
    looked_s: float | None = None  # when the last look was
    counted_s: float | None = None  # when reports were counted last
    told: dict[str, State] = field(default_factory=dict)  # what was counted last, by uid
    told_routers: dict[str, RouterState] = field(default_factory=dict)  # likewise
    served: frozenset[str] = frozenset()  # uids of pods that were seen serving
    serving: frozenset[str] = frozenset()  # at the last look
    moved_s: float = float("-inf")  # when other pods began to serve, or fewer: caches must settle
    known: Estimates = field(default_factory=Estimates)
    votes: tuple[Vote, ...] = ()
    since_s: float = 0.0  # when looks without a gap began
    changes: tuple[tuple[float, int], ...] = ()  # from when on there were how many pods
    burst: Burst | None = None
    idle: Idle = field(default_factory=Idle)


def decide(memory: Memory, look: Look, rules: Rules) -> tuple[Memory, Decision]:
    """The number of pods from now on.

    Args:
        memory: of the decision before; a new one at first.
        look: at the pods, now.
        rules: of this service.
    """
    memory = replace(_noted(memory, look), idle=idle.noted(memory.idle, look))
    if look.replicas == 0:
        decision = _at_none(look)
    else:
        memory, decision = _judged(memory, look, rules)
        decision = _to_none(memory, look, rules) or _bounded(decision, look, rules)
    return replace(memory, looked_s=look.now_s, decision=decision), decision


def _at_none(look: Look) -> Decision:
    waiting = look.queue
    if not waiting and look.untried:
        sentence = "0 → 1 pods: what the spec asks for has not served yet, and shall once"
        return Decision(1, Reason.SETTLING, sentence)
    if not waiting:
        return Decision(0, Reason.SCALED_TO_ZERO, "stays at 0: nothing is asked")
    waits = "1 request waits" if waiting == 1 else f"{waiting} requests wait"
    return Decision(1, Reason.LOAD_GREW, f"0 → 1 pods: {waits} for the first one")


def _to_none(memory: Memory, look: Look, rules: Rules) -> Decision | None:
    """No pod, where nothing was asked for long enough; None: something is, or may be.

    Pods that cannot serve stay, so that it is told why; as do old ones until new ones serve, unless
    these only lack the room of those: then they come next.
    """
    lasted_s = idle.lasted_s(memory.idle, look)
    never = rules.idle_s is None or rules.down.select is Select.DISABLED
    never = never or not (look.shown or look.blocked)
    if lasted_s is None or never or lasted_s < (rules.idle_s or 0.0):
        return None
    room = "" if look.shown else ", and the new pod finds no room beside the old one"
    sentence = f"{look.replicas} → 0 pods: nothing was asked for {lasted_s:.0f} s{room}"
    return Decision(0, Reason.SCALED_TO_ZERO, sentence)


def _noted(memory: Memory, look: Look) -> Memory:
    """Who serves, and since when there are so many pods, whoever has changed it."""
    first = memory.looked_s is None
    gap = first or look.now_s - (memory.looked_s or 0.0) > LONGEST_LOOK_S
    since_s = look.now_s if gap else memory.since_s
    live = {pod.uid for pod in look.pods}
    changes = memory.changes or ((float("-inf"), look.replicas),)
    if changes[-1][1] != look.replicas:
        changes = (*_recent(changes, look.now_s), (look.now_s, look.replicas))
    serving = frozenset(pod.uid for pod in look.serving)
    moved = not first and serving != memory.serving
    return replace(
        memory,
        serving=serving,
        moved_s=look.now_s if moved else memory.moved_s,
        known=estimates.started(memory.known, look, memory.served, look.now_s - since_s),
        told={uid: state for uid, state in memory.told.items() if uid in live},
        served=memory.served & live | serving,
        votes=() if gap else memory.votes,
        since_s=since_s,
        changes=changes,
    )


def _recent(changes: tuple[tuple[float, int], ...], now_s: float) -> tuple[tuple[float, int], ...]:
    """Those that a policy may count, and how many pods there were before."""
    old = [each for each in changes if each[0] <= now_s - LONGEST_PERIOD_S]
    return (*old[-1:], *changes[len(old) :])


def _judged(memory: Memory, look: Look, rules: Rules) -> tuple[Memory, Decision]:
    """What the look says, before bounds."""
    if not look.serving:
        return _held(memory, look, rules, f"stays at {look.replicas}: no pod serves")
    if silent := counts.silent(look, memory.told):
        told = f"{len(silent)} of {len(look.serving)} serving pods do not report their load"
        return _without_reports(memory, look, rules, told)
    if look.routers is not None and (told := _silent_routers(look, memory)):
        return _without_reports(memory, look, rules, told)
    before_s = memory.counted_s
    if before_s is not None and look.now_s - before_s < LEAST_LOOK_S and memory.decision:
        return memory, memory.decision  # what it asked for may not be there yet
    seconds = 0.0 if before_s is None else look.now_s - before_s
    windows = None if before_s is None else counts.windows(look, memory.told, seconds)
    counted = {uid: s for uid, s in look.states.items() if s.arrived_requests is not None}
    arrived = counts.arrivals(look, memory.told_routers, seconds)
    routers = {each.uid: each.state for each in look.routers or () if each.state is not None}
    memory = replace(memory, told=memory.told | counted, told_routers=routers, counted_s=look.now_s)
    if windows is None or arrived is None:
        measured = f"stays at {look.replicas}: load is measured between two looks"
        return _held(memory, look, rules, measured)
    frozen = look.now_s - max(memory.changes[-1][0], memory.moved_s) < FROZEN_S
    by_routers = None if look.routers is None else arrived
    known = estimates.learned(
        memory.known, look, windows, seconds, arrived=by_routers, frozen=frozen
    )
    memory = replace(memory, known=known)
    if (found := wish(known, look, rules, memory.burst)) is None:
        unknown = f"stays at {look.replicas}: no pod has told yet what it can hold"
        return _held(memory, look, rules, unknown)
    memory = _voted(memory, look, rules, found.needed, found.enough)
    memory = replace(memory, burst=_burst(memory, found, look, rules))
    if (absent := _absent(look)) and found.needed > min(look.replicas, _supply(memory, look)):
        decision = _short(look, absent, _needed(found, look))
    else:
        guarded = _more if found.needed > look.replicas else _fewer
        decision = guarded(memory, found, look, rules)
    return memory, replace(decision, unreachable=found.unreachable, by_load=found.by_load)


def _held(memory: Memory, look: Look, rules: Rules, sentence: str) -> tuple[Memory, Decision]:
    voted = _voted(memory, look, rules, look.replicas, look.replicas)
    return voted, Decision(look.replicas, Reason.WAITING_FOR_REPORTS, sentence)


def _silent_routers(look: Look, memory: Memory) -> str:
    """Why it is not known what arrives; empty: it is."""
    routers, silent = look.routers or (), counts.silent_routers(look, memory.told_routers)
    if not routers:
        return "no router serves that could tell what arrives"
    return f"{len(silent)} of {len(routers)} routers do not report what arrives" if silent else ""


def _without_reports(
    memory: Memory, look: Look, rules: Rules, told: str
) -> tuple[Memory, Decision]:
    now, fallback = look.replicas, rules.fallback_replicas or 0
    memory = _voted(memory, look, rules, now, now)
    raised = min(fallback, rules.most)
    if raised <= now:
        return memory, Decision(now, Reason.REPORTS_MISSING, f"stays at {now}: {told}")
    if absent := _absent(look):
        return memory, _short(look, absent, f"{told}, and fallback asks for {raised}")
    sentence = f"{now} → {raised} pods, as fallback says: {told}"
    return memory, Decision(raised, Reason.REPORTS_MISSING, sentence)


def _bounded(decision: Decision, look: Look, rules: Rules) -> Decision:
    pods = min(max(decision.replicas, rules.least), rules.most)
    if pods == decision.replicas:
        return decision
    bounds = f"minReplicas is {rules.least} and maxReplicas {rules.most}"
    return replace(
        decision,
        replicas=pods,
        reason=Reason.BOUNDS,
        sentence=f"{look.replicas} → {pods} pods: {bounds}",
    )


def _voted(memory: Memory, look: Look, rules: Rules, needed: int, enough: int) -> Memory:
    since_s = look.now_s - max(rules.up.quiet_s, rules.down.quiet_s)
    votes = tuple(vote for vote in memory.votes if vote.at_s >= since_s)
    return replace(memory, votes=(*votes, Vote(look.now_s, needed, enough)))


def _burst(memory: Memory, found: Wish, look: Look, rules: Rules) -> Burst | None:
    """What is remembered of bursts: the last one, while it goes on and for some time after."""
    before, requests = memory.burst, memory.known.requests or 0.0
    if memory.known.jumped and found.load > look.replicas:
        return Burst(look.now_s, requests)
    if before is None or look.now_s - before.seen_s >= rules.down.burst_s:
        return None
    if requests < _AS_MUCH * before.requests:
        return before
    return Burst(look.now_s, max(requests, before.requests))


def _more(memory: Memory, found: Wish, look: Look, rules: Rules) -> Decision:
    now = look.replicas
    needed = _needed(found, look)
    stays = Decision(now, Reason.SETTLING, f"stays at {now}: {needed}")
    if rules.up.select is Select.DISABLED:
        return replace(stays, sentence=f"stays at {now}, as scaleUp is disabled: {needed}")
    since_s = look.now_s - rules.up.quiet_s
    target = min(vote.needed for vote in memory.votes if vote.at_s >= since_s)
    pods = max(min(target, reachable(memory.changes, look, rules.up, +1)), now)
    if pods == now:
        sentence = f"stays at {now} for a while, as behavior.scaleUp says: {needed}"
        return replace(stays, sentence=sentence)
    at_most = pods == rules.most and found.too_much
    held = ", as many as maxReplicas allows" if at_most else ""
    if pods < found.needed:
        held = f", as many as behavior.scaleUp allows now of {found.needed}"
    return replace(
        stays,
        replicas=pods,
        reason=Reason.AT_MAXIMUM if at_most else Reason.LOAD_GREW,
        sentence=f"{now} → {pods} pods{held}: {found.because}; {found.numbers(pods)}",
    )


def _fewer(memory: Memory, found: Wish, look: Look, rules: Rules) -> Decision:
    now, quiet_s = look.replicas, rules.down.quiet_s
    stays = Decision(now, Reason.SETTLING, "")
    numbers = found.numbers(_judged_by(look))
    if found.enough >= now:
        return _as_needed(stays, found, rules, numbers)
    would_do = f"{found.enough} would do; {numbers}"
    if now <= rules.least:
        # What no number of pods keeps is told before what keeps this one.
        reason = Reason.STEADY if found.unreachable else Reason.BOUNDS
        sentence = f"stays at {now}, as minReplicas says: {would_do}"
        return replace(stays, reason=reason, sentence=sentence)
    if rules.down.select is Select.DISABLED:
        return replace(stays, sentence=f"stays at {now}, as scaleDown is disabled: {would_do}")
    if any(_starts(pod, memory.known) for pod in look.pods):
        return replace(stays, sentence=f"stays at {now} until all of them serve: {would_do}")
    burst = 0 if memory.burst is None else found.burst
    if burst >= now:
        minutes = f"{rules.down.burst_s / 60:.0f} minutes"
        why = f"stays at {now} for {minutes} after a jump of the traffic that would need them"
        return replace(stays, sentence=f"{why}: {would_do}")
    since_s = look.now_s - quiet_s
    asked = [max(vote.needed, vote.enough) for vote in memory.votes if vote.at_s >= since_s]
    enough = max(asked)
    if enough >= now or memory.since_s > since_s:
        sentence = (
            f"stays at {now} until nothing has asked for more for {quiet_s:.0f} s: {would_do}"
        )
        return replace(stays, sentence=sentence)
    pods = max(enough, rules.least, burst, reachable(memory.changes, look, rules.down, -1))
    if pods >= now:
        sentence = f"stays at {now} for a while, as behavior.scaleDown says: {would_do}"
        return replace(stays, sentence=sentence)
    sentence = f"{now} → {pods} pods: they are enough; {found.numbers(pods)}"
    return Decision(pods, Reason.LOAD_FELL, sentence)


def _as_needed(stays: Decision, found: Wish, rules: Rules, numbers: str) -> Decision:
    """As many as are needed, or as may be: what would be wrong with fewer, or forbids more."""
    now = stays.replicas
    if now == rules.most and found.too_much:
        sentence = f"stays at {now}, as maxReplicas says: more are needed; {numbers}"
        return replace(stays, reason=Reason.AT_MAXIMUM, sentence=sentence)
    held = found.held(now)
    sentence = f"stays at {now}{held and f', as {held}'}: {numbers}"
    return replace(stays, reason=Reason.STEADY, sentence=sentence)


def _short(look: Look, absent: str, needed: str) -> Decision:
    """Pods are needed that do not come."""
    sentence = f"stays at {look.replicas}, as {absent}: {needed}"
    return Decision(look.replicas, Reason.UNSCHEDULABLE, sentence)


def _absent(look: Look) -> str:
    """Why pods that are wanted do not come; empty: nothing keeps them away."""
    if any(pod.unschedulable for pod in look.pods):
        return "no node takes one of them"
    refused = look.refused and len(look.pods) < look.replicas
    return "the API server refuses some of them" if refused else ""


def _supply(memory: Memory, look: Look) -> int:
    """Pods that serve, or will soon."""
    return len(look.serving) + sum(_starts(pod, memory.known) for pod in look.pods)


def _judged_by(look: Look) -> int:
    """Pods whose numbers are told: those that are wanted, or of these those that serve."""
    return len(look.serving) if _absent(look) else look.replicas


def _needed(found: Wish, look: Look) -> str:
    return f"{found.needed} are needed ({found.because}); {found.numbers(_judged_by(look))}"


def _starts(pod: Pod, known: Estimates) -> bool:
    """It will serve soon: one that no node takes, or that takes far too long, may be let go."""
    waits = pod.ready_for_s is None and not pod.unschedulable
    return waits and (known.start_s is None or pod.age_s <= _STUCK * known.start_s)
