"""What a user says about scaling, as the law and its guards read it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

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


UP = Behavior(quiet_s=0.0)
DOWN = Behavior(quiet_s=240.0, policies=(Policy(1, 0, 15.0),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The part `scaling` of an InferenceService."""

    least: int = 1
    most: int
    aim: Aim = field(default_factory=Aim)
    tolerance: float = 0.05
    count_hits: bool = True
    count_drafts: bool = True
    up: Behavior = UP
    down: Behavior = DOWN
    fallback_replicas: int | None = None  # without reports: at least so many; None: as they are
