"""What one look at a service's pods shows, and what they counted since the one before. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields

from aweigh_api.state import State

WARM_S = 45.0  # a younger pod's cache says nothing yet of what it will be worth


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """One pod that lives."""

    uid: str
    ready_for_s: float | None  # None: it is starting
    unschedulable: bool = False
    state: State | None = None  # its newest report; None: it does not answer

    @property
    def warm(self) -> bool:
        """It has served for long enough to be judged by."""
        return self.ready_for_s is not None and self.ready_for_s >= WARM_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """All that is known at one moment."""

    now_s: float  # on any clock that never goes back
    replicas: int  # that are wanted now
    pods: Sequence[Pod]

    @property
    def serving(self) -> list[Pod]:
        """Pods that take requests."""
        return [pod for pod in self.pods if pod.ready_for_s is not None]

    @property
    def silent(self) -> list[Pod]:
        """Pods that take requests and do not report."""
        return [pod for pod in self.serving if pod.state is None]

    @property
    def states(self) -> dict[str, State]:
        """Reports by the pod's uid."""
        return {pod.uid: pod.state for pod in self.pods if pod.state is not None}


@dataclass(frozen=True, slots=True)
class Counted:
    """Sums over some pods, between two looks."""

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


def counted(
    before: Mapping[str, State], after: Mapping[str, State], uids: Iterable[str]
) -> Counted:
    """What some pods have counted between two looks.

    A pod that was not there before has counted since it started; a new boot begins at 0.
    """
    total = Counted()
    for uid in uids:
        if uid in after:
            total += _since(before.get(uid), after[uid])
    return total


def _since(before: State | None, after: State) -> Counted:
    known = before if before is not None and before.boot_id == after.boot_id else None
    return Counted(*(_grown(known, after, field.name) for field in fields(Counted)))


def _grown(before: State | None, after: State, name: str) -> int:
    old = 0 if before is None else getattr(before, name) or 0
    return max(0, (getattr(after, name) or 0) - old)
