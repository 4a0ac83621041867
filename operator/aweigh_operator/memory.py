"""What one look at a service leaves to the next. It only saves work, or shortens a wait."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from aweigh_operator import recent
from aweigh_operator.autoscaling import Autoscaling
from aweigh_operator.observe import Autoscaler, Manifest, Refusal, Sign
from aweigh_operator.plan import Plan
from aweigh_operator.route import Way, way


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
