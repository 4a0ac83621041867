"""What is observed of one InferenceService, and how it is read from objects. Pure."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from aweigh_api import names
from aweigh_api.reasons import Reason
from aweigh_api.router_state import RouterState
from aweigh_api.state import State
from aweigh_operator.scaling.decision import Decision

Manifest = dict[str, Any]


class Key(NamedTuple):
    """Which InferenceService."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a container does not run."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Crash:
    """How a container ended last."""

    reason: str  # the kubelet's word: Error, OOMKilled, Completed
    exit_code: int
    message: str  # what the container left in its termination log
    finished_at: datetime | None  # tells crashes apart; when it was our clock knows better
    ran_s: float | None = None  # before it ended, by the kubelet's clock; None: it is not told


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """What Aweigh reads of a pod."""

    name: str
    namespace: str
    uid: str
    created_at: datetime
    template_hash: str  # what the pod was made from
    image: str
    ip: str | None
    fetches: bool  # models, for those that serve
    routes: bool  # requests, to those that serve
    knows_routers: bool  # it has what only they and routers know
    tls: bool  # it speaks TLS, and nothing else
    leaving: bool
    finished: bool  # failed or evicted for good: its ReplicaSet has replaced it
    scheduled: bool
    ready: bool
    ready_at: datetime | None  # since when it is, or is not
    deletion_cost: int | None  # that its ReplicaSet goes by when there are too many
    running: bool
    restarts: int
    unschedulable: str | None  # the scheduler's sentence
    waiting: Waiting | None
    crash: Crash | None

    @property
    def live(self) -> bool:
        """Counts as one of the service's pods."""
        return not self.leaving and not self.finished

    @property
    def answers(self) -> bool:
        """Can be asked, also while it ends."""
        return self.running and self.ip is not None and not self.finished


class Sign(NamedTuple):
    """Something about a pod that counts once it has lasted."""

    uid: str  # of the pod
    what: str | Crash  # its last crash, or one of these:


UNSCHEDULABLE = "unschedulable"
MOUNTING = "mounting"  # its container is being created
MOUNT_FAILURES = ("FailedMount", "FailedAttachVolume")  # events of a pod
NOT_CREATED = (*MOUNT_FAILURES, "FailedCreatePodSandBox")  # of one whose container is not created
_CONTAINERS = (names.CONTAINER, names.ROUTER_CONTAINER)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a child cannot be as it should."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Counts:
    """What pods counted in some time."""

    cached: int = 0  # prompt tokens that came from the prefix cache
    computed: int = 0  # prompt tokens that did not
    drafted: int = 0  # tokens that were guessed
    accepted: int = 0  # of those
    decoded: int = 0  # tokens that answers grew by
    rows: int = 0  # steps in which an answer grew

    @property
    def any_prompts(self) -> bool:
        """Whether somebody has asked anything."""
        return self.cached + self.computed > 0

    @property
    def hit_rate_percent(self) -> int | None:
        """The share of prompt tokens that was cached; of none there is none."""
        return _percent(self.cached, self.cached + self.computed)

    @property
    def acceptance_percent(self) -> int | None:
        """The share of guessed tokens that was accepted; of none there is none."""
        return _percent(self.accepted, self.drafted)

    @property
    def mean_accepted_length(self) -> str | None:
        """Tokens that an answer grew by in one step."""
        return f"{self.decoded / self.rows:.2f}" if self.rows else None


def _percent(part: int, total: int) -> int | None:
    return min(100, (200 * part + total) // (2 * total)) if total else None


@dataclass(frozen=True, slots=True)
class Autoscaler:
    """Somebody else's HorizontalPodAutoscaler, and what it scales."""

    name: str
    kind: str  # Deployment or InferenceService
    target: str  # its name


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Everything that a plan is made from."""

    body: Manifest  # the InferenceService
    changed: int = 0  # the store's number of what was read of it
    children: Mapping[str, Manifest] = field(default_factory=dict)  # by place
    pods: tuple[Pod, ...] = ()  # that serve
    routers: tuple[Pod, ...] = ()
    fetcher: Pod | None = None  # that brings the models for them
    states: Mapping[str, State] = field(default_factory=dict)  # by the pod's uid
    router_states: Mapping[str, RouterState] = field(default_factory=dict)  # likewise
    way_lasted_s: float = 0.0  # for which requests have come the way that they come now
    counts: Counts = Counts()  # of the last minutes
    lasting_s: Mapping[Sign, float] = field(default_factory=dict)  # on our clock
    stuck: Mapping[str, Waiting] = field(default_factory=dict)  # before the container, by uid
    decision: Decision | None = None  # how many pods the load asks for
    cheapest: tuple[str, ...] = ()  # uids of pods, in the order in which they shall go
    autoscaler: Autoscaler | None = None  # that scales what is ours to scale
    autoscalers_unknown: bool = False  # the API server does not tell whether there is one
    marks_refused: bool = False  # the API server does not let us say which pods go first
    refusals: Mapping[str, Refusal] = field(default_factory=dict)  # by place

    @property
    def live_pods(self) -> tuple[Pod, ...]:
        """The pods that neither leave nor have failed for good."""
        return tuple(pod for pod in self.pods if pod.live)

    @property
    def live_routers(self) -> tuple[Pod, ...]:
        """Likewise of the routers."""
        return tuple(pod for pod in self.routers if pod.live)

    def lasted_s(self, pod: Pod, what: str | Crash) -> float:
        """For how long this has been seen of a pod, in seconds of our own clock."""
        return self.lasting_s.get(Sign(pod.uid, what), 0.0)


def key_of(body: Mapping[str, Any]) -> Key:
    """The key of an InferenceService, or of the one that a child bears the name of."""
    return Key(body["metadata"]["namespace"], body["metadata"]["name"])


def key_of_pod(body: Mapping[str, Any]) -> Key:
    """The key of the service that a pod serves."""
    metadata = body["metadata"]
    return Key(metadata["namespace"], metadata.get("labels", {}).get(names.LABEL_INSTANCE, ""))


def pod_of(body: Mapping[str, Any]) -> Pod:
    """Read what matters of a pod."""
    metadata, status = body["metadata"], body.get("status", {})
    conditions = {each["type"]: each for each in status.get("conditions", [])}
    scheduled, ready = conditions.get("PodScheduled", {}), conditions.get("Ready", {})
    container = _container(status)
    state = container.get("state", {})
    return Pod(
        name=metadata["name"],
        namespace=sys.intern(metadata["namespace"]),
        uid=metadata["uid"],
        created_at=moment(metadata["creationTimestamp"]),
        template_hash=sys.intern(metadata.get("annotations", {}).get(names.TEMPLATE_HASH, "")),
        image=sys.intern(_image(body)),
        ip=status.get("podIP"),
        fetches=metadata.get("labels", {}).get(names.LABEL_NAME) == names.PREFETCH,
        routes=metadata.get("labels", {}).get(names.LABEL_NAME) == names.ROUTER,
        knows_routers=knows_routers(body.get("spec", {})),
        tls=_mounts(body.get("spec", {}), names.TLS_VOLUME),
        leaving="deletionTimestamp" in metadata,
        finished=status.get("phase") in ("Failed", "Succeeded"),
        scheduled=scheduled.get("status") == "True",
        ready=ready.get("status") == "True",
        ready_at=_moment_or_none(ready.get("lastTransitionTime")),
        deletion_cost=_cost(metadata.get("annotations", {}).get(names.DELETION_COST)),
        running="running" in state,
        restarts=container.get("restartCount", 0),
        unschedulable=_unschedulable(scheduled),
        waiting=_waiting(state.get("waiting")),
        crash=_crash(state.get("terminated") or container.get("lastState", {}).get("terminated")),
    )


def knows_routers(pods: Mapping[str, Any]) -> bool:
    """Whether pods of this spec have what only they and routers know."""
    return _mounts(pods, names.ROUTER_SECRET_VOLUME)


def _mounts(pods: Mapping[str, Any], volume: str) -> bool:
    return any(each["name"] == volume for each in pods.get("volumes") or [])


def moment(text: str) -> datetime:
    """A time stamp of the API server."""
    return datetime.fromisoformat(text)


def _moment_or_none(text: str | None) -> datetime | None:
    return None if text is None else moment(text)


def _cost(text: str | None) -> int | None:
    """As the ReplicaSet controller reads it: what is no number counts as none."""
    return int(text) if text is not None and re.fullmatch(r"-?\d{1,10}", text) else None


def _container(status: Mapping[str, Any]) -> Mapping[str, Any]:
    found = [each for each in status.get("containerStatuses", []) if each["name"] in _CONTAINERS]
    return found[0] if found else {}


def _image(body: Mapping[str, Any]) -> str:
    containers = body.get("spec", {}).get("containers", [])
    images = [each["image"] for each in containers if each["name"] in _CONTAINERS]
    return images[0] if images else ""


def _unschedulable(scheduled: Mapping[str, Any]) -> str | None:
    if scheduled.get("status") != "False" or scheduled.get("reason") != "Unschedulable":
        return None
    return str(scheduled.get("message", "the scheduler gave no reason"))


def _waiting(state: Mapping[str, Any] | None) -> Waiting | None:
    return Waiting(state.get("reason", ""), state.get("message", "")) if state else None


def _crash(state: Mapping[str, Any] | None) -> Crash | None:
    if not state:
        return None
    started, finished = (_moment_or_none(state.get(each)) for each in ("startedAt", "finishedAt"))
    return Crash(
        reason=state.get("reason", ""),
        exit_code=state.get("exitCode", 0),
        message=state.get("message", ""),
        finished_at=finished,
        ran_s=(finished - started).total_seconds() if started and finished else None,
    )
