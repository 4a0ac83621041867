"""What pods have counted since each was last counted, by their own clocks. Pure.

Every pod has a window of its own, from the report that was counted last to its newest one: a report
that was lost makes the window longer, not the traffic less. What a pod does not tell is unknown:
it is left out together with what it would be divided by.
"""

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass

from aweigh_api.router_state import RouterState
from aweigh_api.state import State
from aweigh_operator.scaling.look import Look, Pod, Router

_TOGETHER = (  # known together, or not at all
    ("arrived_requests", "arrived_prompt_tokens"),
    ("finished_requests", "finished_output_tokens"),
    ("cached_prompt_tokens", "computed_prompt_tokens"),
    ("decode_tokens", "decoded_rows", "kv_tokens_read"),
)


@dataclass(frozen=True, slots=True)
class Counted:
    """Sums over some pods, each in its own window."""

    arrived_requests: int = 0
    arrived_prompt_tokens: int = 0
    finished_requests: int = 0
    finished_output_tokens: int = 0
    cached_prompt_tokens: int = 0
    computed_prompt_tokens: int = 0
    decode_tokens: int = 0
    decoded_rows: int = 0
    kv_tokens_read: int = 0
    drafted_tokens: int = 0

    def __add__(self, other: "Counted") -> "Counted":
        return Counted(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


NOTHING = Counted()


@dataclass(frozen=True, slots=True)
class Window:
    """What one pod has counted, and in which time."""

    seconds: float
    counted: Counted


def silent(look: Look, told: Mapping[str, State]) -> list[Pod]:
    """Serving pods that tell nothing of their load, or nothing new.

    Args:
        look: at the pods, now.
        told: reports that were counted last, by uid.
    """
    return [pod for pod in look.serving if not _tells(pod.state, told.get(pod.uid))]


def silent_routers(look: Look, told: Mapping[str, RouterState]) -> list[Router]:
    """Routers that do so; see `silent`."""
    routers = look.routers or ()
    return [each for each in routers if not _router_tells(each.state, told.get(each.uid))]


def _tells(state: State | None, before: State | None) -> bool:
    if state is None or None in (
        state.arrived_requests,
        state.arrived_prompt_tokens,
        state.running,
        state.waiting,
    ):
        return False
    return before is None or before.boot_id != state.boot_id or state.uptime_s > before.uptime_s


def _router_tells(state: RouterState | None, before: RouterState | None) -> bool:
    if state is None or None in (state.arrived_requests, state.waiting):
        return False
    return before is None or before.boot_id != state.boot_id or state.uptime_s > before.uptime_s


def arrivals(look: Look, told: Mapping[str, RouterState], seconds: float) -> float | None:
    """Requests that arrive at routers, per second; None: one has routed without being counted.

    Args:
        look: at the routers, now; all of them tell.
        told: reports that were counted last, by uid.
        seconds: since then.
    """
    rate = 0.0
    for router in look.routers or ():
        after, before = router.state, told.get(router.uid)
        if after is None or after.arrived_requests is None:
            continue
        lasted_s, grown = after.uptime_s, after.arrived_requests
        if before is not None and before.boot_id == after.boot_id:
            lasted_s -= before.uptime_s
            grown -= before.arrived_requests or 0
        elif before is None and lasted_s > 2 * seconds:
            return None
        rate += max(0, grown) / max(lasted_s, 1.0)
    return rate


def windows(look: Look, told: Mapping[str, State], seconds: float) -> dict[str, Window] | None:
    """The window of every pod that reports, by uid; None: one has served without being counted.

    A new boot of a known pod, and a pod that has begun to serve since the last look, count from 0.

    Args:
        look: at the pods, now.
        told: reports that were counted last, by uid.
        seconds: since the last look.
    """
    found = {}
    for pod in look.pods:
        if (after := pod.state) is None:
            continue
        before = told.get(pod.uid)
        if before is not None and before.boot_id == after.boot_id:
            found[pod.uid] = Window(after.uptime_s - before.uptime_s, _since(before, after))
        elif before is not None:
            found[pod.uid] = Window(after.uptime_s, _since(None, after))
        elif pod.ready_for_s is None:
            continue  # it takes nothing yet
        elif pod.ready_for_s > 2 * seconds:
            return None
        else:
            found[pod.uid] = Window(max(pod.ready_for_s, 1.0), _since(None, after))
    return found


def total(found: Iterable[Window]) -> Counted:
    """Of several pods."""
    return sum((window.counted for window in found), NOTHING)


def _since(before: State | None, after: State) -> Counted:
    grown = {"drafted_tokens": _grown(before, after, "drafted_tokens") or 0}
    for names in _TOGETHER:
        values = [_grown(before, after, name) for name in names]
        if None not in values:
            grown |= {name: value for name, value in zip(names, values, strict=True) if value}
    return Counted(**grown)


def _grown(before: State | None, after: State, name: str) -> int | None:
    new: int | None = getattr(after, name)
    old: int | None = 0 if before is None else getattr(before, name)
    return None if new is None or old is None else max(0, new - old)
