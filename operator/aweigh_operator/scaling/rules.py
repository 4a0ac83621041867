"""What a user says about scaling, as the law and its guards read it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from aweigh_api import scaling as api
from aweigh_operator.scaling.law import Aim


class Select(StrEnum):
    """Which of several policies counts."""

    MAX = "Max"
    MIN = "Min"
    DISABLED = "Disabled"


@dataclass(frozen=True, slots=True)
class Policy:
    """How far the number of pods may move within some time."""

    pods: int  # so many,
    percent: int  # or so many of a hundred that there were; the other one is 0
    period_s: float

    def reach(self, replicas: int) -> int:
        """Pods that may come or go, of so many at the beginning of the period."""
        return self.pods or -(-replicas * self.percent // 100)


@dataclass(frozen=True, slots=True)
class Behavior:
    """How one direction is taken, as in autoscaling/v2."""

    quiet_s: float  # in which nothing may have asked for less of a move
    policies: Sequence[Policy] = ()  # none: any step at once
    select: Select = Select.MAX
    burst_s: float = 0.0  # for which pods stay that a jump of the traffic has asked for


UP = Behavior(quiet_s=0.0)
DOWN = Behavior(quiet_s=240.0, policies=(Policy(1, 0, 15.0),), burst_s=900.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The part `scaling` of an InferenceService."""

    least: int = 1
    idle_s: float | None = (
        None  # without a request, after which no pod stays; None: one always does
    )
    most: int
    aim: Aim = field(default_factory=Aim)
    tolerance: float = 0.05
    count_hits: bool = True
    count_drafts: bool = True
    up: Behavior = UP
    down: Behavior = DOWN
    fallback_replicas: int | None = None  # without reports: at least so many; None: as they are


def rules(part: api.Scaling) -> Rules:
    """What the spec says."""
    wanted = part.objective or api.Objective()
    return Rules(
        least=max(1, part.min_replicas),
        idle_s=part.idle_after_s if part.min_replicas == 0 else None,
        most=part.max_replicas,
        aim=Aim(
            utilization=part.target_utilization_percent / 100,
            inter_token_s=_seconds(wanted.inter_token_milliseconds),
            first_token_s=_seconds(wanted.time_to_first_token_milliseconds),
            drain_s=float(part.drain_within_seconds),
        ),
        tolerance=part.tolerance_percent / 100,
        count_hits=part.corrections.prefix_cache.enabled,
        count_drafts=part.corrections.speculation.enabled,
        up=_behavior(part.behavior.scale_up, UP),
        down=_behavior(part.behavior.scale_down, DOWN),
        fallback_replicas=part.fallback.replicas,
    )


def _seconds(milliseconds: int | None) -> float:
    return inf if milliseconds is None else milliseconds / 1000


def _behavior(part: api.ScalingRules, usual: Behavior) -> Behavior:
    window_s = part.stabilization_window_seconds
    policies = None if part.policies is None else tuple(map(_policy, part.policies))
    return Behavior(
        quiet_s=usual.quiet_s if window_s is None else float(window_s),
        policies=usual.policies if policies is None else policies,
        select=Select(part.select_policy),
        burst_s=usual.burst_s if window_s is None else 0.0,
    )


def _policy(part: api.ScalingPolicy) -> Policy:
    pods, percent = (part.value, 0) if part.type == "Pods" else (0, part.value)
    return Policy(pods, percent, float(part.period_seconds))
