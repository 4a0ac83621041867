"""What one look at a service leaves to the next. It only saves work, or shortens a wait."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from aweigh_operator import recent, troubles
from aweigh_operator.autoscaling import Autoscaling
from aweigh_operator.observe import Autoscaler, Manifest, Observed, Refusal, Sign
from aweigh_operator.plan import Plan, plan
from aweigh_operator.route import Way, way
from aweigh_operator.settings import Settings


@dataclass(frozen=True, slots=True)
class Refused:
    """A manifest that the API server refused, and when to try the same again."""

    manifest: Manifest
    refusal: Refusal
    pause_s: float
    retry_at: float


@dataclass(slots=True)
class Memory:
    """What one service's last run leaves to the next."""

    resync_at: float
    refused: dict[str, Refused]  # by place
    secret: bool = False  # that pods and routers share: it has been made
    way: tuple[Way, float] | None = None  # by which requests come, and since when
    planned: tuple[object, Plan] | None = None  # that all is well, and what that follows from
    since: dict[Sign, float] | None = None  # that its pods show what counts once it has lasted
    window: recent.Window = field(default_factory=dict)  # what its pods have told of late
    autoscaling: Autoscaling = field(default_factory=Autoscaling)
    autoscaler: Autoscaler | None = None  # of somebody else, when that was last known
    ask_again_s: float | None = None  # for those: after so long, as the API server has not told
    marks_refused: bool = False

    def way_lasted_s(self, children: Mapping[str, Manifest], now_s: float) -> float:
        """Seconds for which requests have come the way that they come now."""
        there = way(children)
        if self.way is None or self.way[0] != there:
            self.way = (there, now_s)
        return now_s - self.way[1]

    def todo(self, observed: Observed, settings: Settings) -> Plan:
        """What to do. That all is well stays true until something that it follows from changes."""
        basis = _basis(observed)
        if self.planned is not None and self.planned[0] == basis:
            return self.planned[1]
        found = plan(observed, settings)
        waits = found.route.due_s is not None or any(
            pod.unschedulable is not None or (pod.ready and not troubles.steady(pod, observed))
            for pod in observed.pods
        )
        lasts = not (found.actions or found.marks or waits)  # else time may change it
        self.planned = (basis, found) if lasts else None
        return found


def _basis(observed: Observed) -> object:
    """What a plan follows from: what the watches have told, and what they do not tell."""
    return (
        observed.changed,
        tuple(child["metadata"]["uid"] for child in observed.children.values()),
        None if observed.decision is None else observed.decision.replicas,
        observed.cheapest,
        observed.autoscaler,
        observed.autoscalers_unknown,
        observed.marks_refused,
    )
