"""The InferenceService's status as the operator writes it."""

from typing import Annotated, Literal

from pydantic import Field

from aweigh_api.schema import Schema


class Condition(Schema):
    """One aspect of the service's state, as in metav1.Condition."""

    type: str = Field(max_length=64, description="Name of the aspect.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(max_length=64, description="Why, as one word from a closed list.")
    message: str = Field(max_length=2048, description="Why, as a sentence with the facts.")
    last_transition_time: str = Field(
        description="When `status` last changed.", json_schema_extra={"format": "date-time"}
    )
    observed_generation: int = Field(description="The metadata.generation that this is about.")


class ModelStatus(Schema):
    """The model as the pods resolved it."""

    name: str = Field(max_length=256, description="The model's name in the OpenAI API.")
    max_model_len: int | None = Field(
        default=None, description="Most tokens of prompt and answer together."
    )
    dtype: str | None = Field(
        default=None, max_length=16, description="Number format that the weights are served in."
    )
    loaded_bytes: int | None = Field(
        default=None, description="Bytes fetched so far, by the slowest pod that still loads."
    )
    total_bytes: int | None = Field(default=None, description="Bytes that it has to fetch.")


class QuantizationStatus(Schema):
    """The numbers that are really in use."""

    scheme: str | None = Field(
        default=None, max_length=16, description="Of the weights; none: they are dense."
    )
    kv_cache_dtype: str | None = Field(
        default=None, max_length=16, description="Of cached keys and values."
    )


class PrefixCacheStatus(Schema):
    """What the prefix cache does."""

    hit_rate_percent: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="Share of the prompt tokens of the last minutes that came from the cache, over "
        "all pods that serve; absent while there were none.",
    )
    effective_bytes: int | None = Field(
        default=None,
        description="Most bytes of keys and values that a pod keeps for later; less than `size` "
        "where the memory is smaller.",
    )


class SpeculationStatus(Schema):
    """What guessing ahead is worth."""

    state: str | None = Field(
        default=None,
        max_length=16,
        description="active: tokens are guessed; paused: they were not worth their time, or "
        "there was no memory for them, and they are tried again later; failed: they cannot be. Of "
        "several pods, the worst.",
    )
    acceptance_percent: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="Share of the guessed tokens of the last minutes that were accepted, over all "
        "pods that serve; absent while there were none.",
    )
    mean_accepted_length: str | None = Field(
        default=None,
        max_length=16,
        description="Tokens that an answer grew by in one step of the last minutes, as a decimal "
        "number such as 2.41; without guesses it is 1.00.",
    )


class ScalingChange(Schema):
    """One change of the number of pods."""

    time: str = Field(description="When it changed.", json_schema_extra={"format": "date-time"})
    from_replicas: int = Field(description="Pods before.")
    to_replicas: int = Field(description="Pods after.")
    reason: str = Field(max_length=64, description="Why, as one word from a closed list.")
    message: str = Field(max_length=1024, description="Why, with the numbers that decided.")


class ScalingStatus(Schema):
    """How many pods the load asks for."""

    desired_replicas: int = Field(description="Pods that the last decision asks for.")
    reason: str = Field(max_length=64, description="Why, as one word from a closed list.")
    message: str = Field(max_length=1024, description="Why, with the numbers that decided.")
    time: str = Field(
        description="When the message was written; it is renewed once a minute while nothing "
        "changes.",
        json_schema_extra={"format": "date-time"},
    )
    history: Annotated[list[ScalingChange], Field(max_length=5)] = Field(
        default_factory=list, description="The last changes, the newest first."
    )


class Status(Schema):
    """What is there."""

    observed_generation: int | None = Field(
        default=None, description="The metadata.generation that this status is about."
    )
    replicas: int = Field(default=0, description="Pods that exist, ready or not.")
    ready_replicas: int = Field(default=0, description="Pods that serve.")
    selector: str | None = Field(
        default=None, max_length=512, description="Selects the pods, for autoscalers."
    )
    url: str | None = Field(
        default=None, max_length=512, description="Base URL of the OpenAI API inside the cluster."
    )
    runtime_image: str | None = Field(
        default=None, max_length=1024, description="Image that the pods run."
    )
    model: ModelStatus | None = Field(default=None, description="The model as resolved.")
    quantization: QuantizationStatus | None = Field(
        default=None, description="The numbers that weights, keys and values are kept in."
    )
    prefix_cache: PrefixCacheStatus | None = Field(
        default=None, description="What the prefix cache does."
    )
    speculation: SpeculationStatus | None = Field(
        default=None, description="What guessing ahead is worth; absent where nothing is guessed."
    )
    scaling: ScalingStatus | None = Field(
        default=None, description="How many pods the load asks for; absent without `scaling`."
    )
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(
        default_factory=list,
        description="Ready, what it consists of, and what else is worth watching.",
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    )
