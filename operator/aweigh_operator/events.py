"""Kubernetes events about InferenceServices, few and counted: the same news is told once.

A repetition raises the count of the event that stands, or is a new event when that has expired; one
service can only say so much in a while.
An event that cannot be written is dropped: nothing depends on it.
"""

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

from aweigh_api import names
from aweigh_api.reasons import Reason
from aweigh_api.status import ScalingChange
from aweigh_operator.observe import Manifest
from aweigh_operator.places import kind_of
from aweigh_operator.plan import Apply, Delete
from aweigh_operator.tell import Transition

BURST = 20  # events that one service may write at once
REFILL_S = 30.0  # after which it may write one more
MAX_REMEMBERED = 4096
MAX_NOTE_BYTES = 1000  # the API server takes 1024
_NORMAL = (
    Reason.READY,
    Reason.LOADING,
    Reason.DOWNLOADING,
    Reason.PROGRESSING,
    Reason.SUSPENDED,
    Reason.ACTIVE,
    Reason.SCALED_TO_ZERO,
    Reason.BYPASSED,
)
logger = logging.getLogger(__name__)


class Deed(StrEnum):
    """What the operator did, as an event's reason."""

    CREATED = "Created"
    UPDATED = "Updated"
    DELETED = "Deleted"


@dataclass(frozen=True, slots=True)
class News:
    """Something worth telling."""

    warning: bool
    reason: str
    action: str
    note: str


class EventWriter(Protocol):
    """Where events go."""

    async def create_event(self, event: Manifest) -> None:
        """Write a new event."""
        ...

    async def repeat_event(self, namespace: str, name: str, series: Manifest) -> bool:
        """Say that an event happened again; False when it has expired."""
        ...


@dataclass(slots=True)
class _Told:
    name: str
    count: int


@dataclass(slots=True)
class _Budget:
    left: float
    at: float


def of_transitions(transitions: Iterable[Transition]) -> list[News]:
    """The news in changed conditions."""
    return [
        News(
            warning=change.verdict.reason not in _NORMAL,
            reason=change.verdict.reason,
            action="Observe",
            note=change.verdict.message,
        )
        for change in transitions
    ]


def of_clamp(clamped: str | None) -> list[News]:
    """The news that a bound of the spec has no effect."""
    if clamped is None:
        return []
    return [News(True, Reason.PREFIX_CACHE_SIZE_CLAMPED, "Observe", clamped)]


def of_scaling(change: ScalingChange | None) -> list[News]:
    """The news that another number of pods is asked for."""
    if change is None:
        return []
    at_most = change.reason == Reason.AT_MAXIMUM
    return [News(at_most, change.reason, "Scale", change.message)]


def of_actions(actions: Iterable[Apply | Delete]) -> list[News]:
    """What was done, one sentence for each sort of deed."""
    kinds: dict[Deed, list[str]] = {}
    for action in actions:
        kinds.setdefault(_deed(action), []).append(kind_of(action.place))
    return [
        News(False, deed, "Reconcile", f"{deed.lower()} {', '.join(dict.fromkeys(of_deed))}")
        for deed, of_deed in kinds.items()
    ]


class Recorder:
    """Writes events, and remembers what it has told."""

    def __init__(
        self,
        writer: EventWriter,
        instance: str,
        written: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`written` is told the type of each event, or "dropped"."""
        self._writer = writer
        self._instance = instance
        self._written = written
        self._clock = clock
        self._told: OrderedDict[str, _Told] = OrderedDict()
        self._budgets: OrderedDict[str, _Budget] = OrderedDict()

    async def tell(self, body: Manifest, news: Iterable[News]) -> None:
        """Write the news about an InferenceService."""
        for each in news:
            if not self._allowed(body["metadata"]["uid"]):
                self._written("dropped")
                continue
            try:
                await self._write(body, each)
            except Exception as error:
                logger.warning("event %s is not written: %s", each.reason, error)
                self._written("dropped")
            else:
                self._written("Warning" if each.warning else "Normal")

    async def _write(self, body: Manifest, news: News) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        metadata = body["metadata"]
        digest = hashlib.sha256(f"{metadata['uid']}{news.reason}{news.note}".encode()).hexdigest()
        told = self._told.get(digest)
        if told is not None:
            told.count += 1
            series = {"count": told.count, "lastObservedTime": now}
            if await self._writer.repeat_event(metadata["namespace"], told.name, series):
                return
            del self._told[digest]
        name = f"{metadata['name']}.{digest[:10]}.{time.time_ns():x}"
        await self._writer.create_event(self._event(body, name, news, now))
        self._told[digest] = _Told(name, 1)
        if len(self._told) > MAX_REMEMBERED:
            self._told.popitem(last=False)

    def _event(self, body: Manifest, name: str, news: News, now: str) -> Manifest:
        metadata = body["metadata"]
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": metadata["namespace"]},
            "eventTime": now,
            "type": "Warning" if news.warning else "Normal",
            "reason": news.reason,
            "action": news.action,
            "note": news.note.encode()[:MAX_NOTE_BYTES].decode(errors="ignore"),
            "reportingController": f"{names.GROUP}/operator",
            "reportingInstance": self._instance,
            "regarding": {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        }

    def _allowed(self, uid: str) -> bool:
        now = self._clock()
        budget = self._budgets.setdefault(uid, _Budget(BURST, now))
        budget.left = min(BURST, budget.left + (now - budget.at) / REFILL_S)
        budget.at = now
        if len(self._budgets) > MAX_REMEMBERED:
            self._budgets.popitem(last=False)
        if budget.left < 1:
            return False
        budget.left -= 1
        return True


def _deed(action: Apply | Delete) -> Deed:
    if isinstance(action, Delete):
        return Deed.DELETED
    return Deed.CREATED if action.creates else Deed.UPDATED
