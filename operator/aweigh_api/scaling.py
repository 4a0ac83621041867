"""How the number of pods follows what is asked of them: the part `scaling` of an InferenceService.

`behavior` has the shape of autoscaling/v2, so that whoever knows one knows the other.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from aweigh_api.fields import part
from aweigh_api.schema import Rule, Schema

MAX_REPLICAS = 1000
IDLE_AFTER_S = 300
LONGEST_PERIOD_S = 1800  # that a policy counts over


class Objective(Schema):
    """What clients shall feel; a limit that is not given limits nothing."""

    inter_token_milliseconds: int | None = Field(
        default=None,
        ge=1,
        le=60_000,
        description="Longest mean time between two tokens of an answer.",
    )
    time_to_first_token_milliseconds: int | None = Field(
        default=None,
        ge=1,
        le=600_000,
        description="Longest mean time from a request to the first token of its answer.",
    )


class Correction(Schema):
    """Whether one of the things that make a pod worth more is counted."""

    enabled: bool = Field(default=True, description="Count it.")


class Corrections(Schema):
    """What makes a pod worth more than its load alone says."""

    prefix_cache: Correction = part(
        Correction, "Prompt tokens that are found in the prefix cache take no time."
    )
    speculation: Correction = part(
        Correction, "Accepted drafts save steps: an answer takes fewer of them."
    )


class ScalingPolicy(Schema):
    """How far the number of pods may move within some time."""

    type: Literal["Pods", "Percent"] = Field(description="What `value` counts.")
    value: int = Field(
        ge=1, le=MAX_REPLICAS, description="Pods, or percent of those that there were."
    )
    period_seconds: int = Field(
        ge=1, le=LONGEST_PERIOD_S, description="The time in which so many may move."
    )


class ScalingRules(Schema):
    """How one direction is taken."""

    stabilization_window_seconds: int | None = Field(
        default=None,
        ge=0,
        le=3600,
        description="For so long nothing may have asked for less of a move. Default: 0 for more "
        "pods, 240 for fewer.",
    )
    select_policy: Literal["Max", "Min", "Disabled"] = Field(
        default="Max",
        description="Which of several policies counts: the one that moves most, the one that moves "
        "least; Disabled: the number never moves in this direction.",
    )
    policies: Annotated[list[ScalingPolicy], Field(min_length=1, max_length=8)] | None = Field(
        default=None,
        description="How fast the number moves. Default: more pods at once, fewer by one in 15 s.",
    )


class Behavior(Schema):
    """How fast the number of pods moves."""

    scale_up: ScalingRules = part(ScalingRules, "Towards more pods.")
    scale_down: ScalingRules = part(ScalingRules, "Towards fewer pods.")


class Fallback(Schema):
    """What is done while pods do not report their load."""

    on_missing_metrics: Literal["Hold", "Static"] = Field(
        default="Hold",
        description="Hold: the number stays; Static: it is raised to `replicas`, never lowered.",
    )
    replicas: int | None = Field(
        default=None, ge=1, le=MAX_REPLICAS, description="At least so many pods, with Static."
    )

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            # The API server judges the default {} before it fills in the defaults inside of it.
            cel="has(self.replicas) == "
            "(has(self.onMissingMetrics) && self.onMissingMetrics == 'Static')",
            message="scaling.fallback.replicas goes with onMissingMetrics Static, and only with "
            "it: give both, or neither",
            holds=lambda part: (part.replicas is not None) == (part.on_missing_metrics == "Static"),
        ),
    )


class Scaling(Schema):
    """The number of pods is the smallest whose predicted steady state keeps every limit."""

    min_replicas: int = Field(
        default=1,
        ge=0,
        le=MAX_REPLICAS,
        description="Fewest pods, however little is asked. 0: none runs while nothing is asked, "
        "and requests wait in the router while the first one starts.",
    )
    max_replicas: int = Field(ge=1, le=MAX_REPLICAS, description="Most pods.")
    target_utilization_percent: int = Field(
        default=80,
        ge=10,
        le=95,
        description="Most of a pod's time that may be spent on what requests do not share; above "
        "80, caches that are too small for the load may never recover.",
    )
    idle_after_seconds: int | None = Field(
        default=None,
        ge=10,
        le=604_800,
        description="With minReplicas 0: after so long without a request the last pods go. "
        f"Default: {IDLE_AFTER_S}.",
    )
    objective: Objective | None = Field(default=None, description="What clients shall feel.")
    drain_within_seconds: int = Field(
        default=20, ge=1, le=3600, description="In which time requests that wait shall be gone."
    )
    tolerance_percent: int = Field(
        default=5,
        ge=0,
        le=50,
        description="A pod goes only if the rest would stay so far below every limit.",
    )
    corrections: Corrections = part(Corrections, "What makes a pod worth more.")
    behavior: Behavior = part(Behavior, "How fast the number of pods moves.")
    fallback: Fallback = part(Fallback, "What is done while pods do not report.")
    mode: Literal["Enforce", "DryRun"] = Field(
        default="Enforce",
        description="DryRun: the decision is written to the status only, and `replicas` counts.",
    )

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.minReplicas <= self.maxReplicas",
            message="scaling.minReplicas must not be more than maxReplicas",
            holds=lambda part: part.min_replicas <= part.max_replicas,
        ),
        Rule(
            cel="!has(self.fallback.replicas) || self.fallback.replicas <= self.maxReplicas",
            message="scaling.fallback.replicas must not be more than maxReplicas",
            holds=lambda part: (part.fallback.replicas or 0) <= part.max_replicas,
        ),
        Rule(
            cel="!has(self.idleAfterSeconds) || self.minReplicas == 0",
            message="scaling.idleAfterSeconds goes with minReplicas 0: set that, or remove it",
            holds=lambda part: part.idle_after_seconds is None or part.min_replicas == 0,
        ),
    )

    @property
    def to_zero(self) -> bool:
        """Whether no pod runs while nothing is asked."""
        return self.enforced and self.min_replicas == 0

    @property
    def idle_after_s(self) -> float:
        """How long nothing may have been asked before the last pods go."""
        return float(self.idle_after_seconds or IDLE_AFTER_S)

    @property
    def enforced(self) -> bool:
        """Whether the decision is carried out."""
        return self.mode == "Enforce"
