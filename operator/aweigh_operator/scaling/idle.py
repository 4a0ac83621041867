"""For how long nothing has been asked, so that the last pods may go. Pure.

Routers say it: what they have counted, what waits in them and what they have sent on. One that does
not answer now holds the pods, and what it has counted by then is seen when it answers again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from aweigh_api.router_state import RouterState
from aweigh_operator.scaling.look import Look


@dataclass(frozen=True, slots=True)
class Idle:
    """What is remembered of a service that may have no pod."""

    since_s: float | None = None  # when it was seen first that nothing is asked; None: something is
    told: Mapping[str, RouterState] = field(default_factory=dict)  # newest reports, by uid


def noted(before: Idle, look: Look) -> Idle:
    """After one more look."""
    routers = look.routers or ()
    told = {each.uid: each.state or before.told.get(each.uid) for each in routers}
    known = {uid: state for uid, state in told.items() if state is not None}
    quiet = bool(known) and all(_quiet(before.told.get(uid), now) for uid, now in known.items())
    busy = any(state.running or state.waiting for state in look.states.values())
    if not quiet or busy:
        return Idle(None, known)
    return Idle(look.now_s if before.since_s is None else before.since_s, known)


def lasted_s(idle: Idle, look: Look) -> float | None:
    """For how long nothing was asked; None: something is, or may be."""
    routers = look.routers or ()
    all_tell = all(each.state is not None for each in routers) and all(
        pod.state is not None for pod in look.serving
    )
    return look.now_s - idle.since_s if all_tell and idle.since_s is not None else None


def _quiet(before: RouterState | None, now: RouterState) -> bool:
    """Whether a router has nothing to do, and nothing has come since it told that."""
    if None in (now.arrived_requests, now.waiting, now.in_flight) or now.waiting or now.in_flight:
        return False
    same = before is not None and before.boot_id == now.boot_id
    return same and before is not None and before.arrived_requests == now.arrived_requests
