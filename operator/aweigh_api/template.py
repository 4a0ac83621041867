"""What users may shape of the pods: the part `template` of an InferenceService, an allow-list."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from aweigh_api import names
from aweigh_api.fields import Labels, Name, Text
from aweigh_api.schema import Rule, Schema

# Flags that every pod is given, so that their variables would have no effect.
_OURS = tuple(
    names.environment_variable(flag)
    for flag in (
        "--uri",
        "--model-name",
        "--revision",
        "--max-model-len",
        "--dtype",
        "--quantization",
        "--kv-cache-dtype",
        "--speculation",
        "--draft-model",
        "--max-draft-tokens",
        "--min-acceptance-percent",
        "--prefix-cache-enabled",
        "--prefix-cache-size",
        "--prefix-cache-host-memory",
        "--prefix-cache-block-tokens",
        "--prefix-cache-scope",
        "--host",
        "--port",
        "--admin-port",
        "--cache-dir",
        "--secret-dir",
        "--api-keys-dir",
        "--tls-dir",
        "--router-secret-dir",
        "--termination-log",
        "--drain-settle-seconds",
        "--drain-timeout-seconds",
    )
)
_RESERVED = ("app.kubernetes.io/", names.GROUP)


class EnvVar(Schema):
    """A variable of the runtime's environment."""

    name: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = Field(
        description="Name of the variable."
    )
    value: Text = Field(default="", description="Its value.")


class Toleration(Schema):
    """Lets the pods run on a tainted node."""

    key: Name | None = Field(default=None, description="The taint's key.")
    operator: Literal["Exists", "Equal"] | None = Field(default=None, description="The relation.")
    value: str | None = Field(default=None, max_length=63, description="The taint's value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="The taint's effect; absent: all."
    )
    toleration_seconds: int | None = Field(
        default=None, ge=0, le=2**31, description="How long a NoExecute taint is tolerated."
    )


class TopologySpreadConstraint(Schema):
    """Spreads the pods over zones or nodes; it counts the pods of this InferenceService."""

    max_skew: int = Field(ge=1, le=1000, description="Largest difference in pods.")
    topology_key: Name = Field(description="The node label that names a zone or node.")
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = Field(
        description="What happens when the spread cannot be kept."
    )
    min_domains: int | None = Field(
        default=None, ge=1, le=1000, description="Least number of zones."
    )


def _reserved(part: str) -> Rule:
    prefixes = " || ".join(f"key.startsWith('{prefix}')" for prefix in _RESERVED)
    return Rule(
        cel=f"!has(self.{part}) || !self.{part}.exists(key, {prefixes})",
        message=f"template.{part} must not use keys that start with {' or '.join(_RESERVED)}: the "
        "operator sets those",
        holds=lambda template: (
            not any(key.startswith(_RESERVED) for key in getattr(template, part) or {})
        ),
    )


class Template(Schema):
    """The parts of the pods that users may shape. Everything else is the operator's."""

    node_selector: Labels | None = Field(
        default=None, description="Labels that a node must have to run the pods."
    )
    tolerations: Annotated[list[Toleration], Field(max_length=32)] | None = Field(
        default=None, description="Taints that the pods tolerate."
    )
    affinity: dict[str, Any] | None = Field(
        default=None,
        description="Affinity of the pods, as in a PodSpec.",
        json_schema_extra={
            "replace": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        },
    )
    topology_spread_constraints: (
        Annotated[list[TopologySpreadConstraint], Field(max_length=8)] | None
    ) = Field(default=None, description="How the pods spread over zones or nodes.")
    runtime_class_name: Name | None = Field(
        default=None, description="RuntimeClass of the pods, such as nvidia."
    )
    priority_class_name: Name | None = Field(default=None, description="PriorityClass of the pods.")
    env: Annotated[list[EnvVar], Field(max_length=64)] | None = Field(
        default=None,
        description="Variables of the runtime's environment, such as HF_ENDPOINT.",
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
    )
    labels: Labels | None = Field(default=None, description="Further labels of the pods.")
    annotations: Annotated[dict[str, Text], Field(max_length=32)] | None = Field(
        default=None, description="Annotations of the pods."
    )

    RULES: ClassVar[tuple[Rule, ...]] = (
        _reserved("labels"),
        _reserved("annotations"),
        Rule(
            cel=f"!has(self.env) || !self.env.exists(each, each.name in {list(_OURS)})",
            message="template.env must not set what has a field of its own: " + ", ".join(_OURS),
            holds=lambda template: not {each.name for each in template.env or []} & set(_OURS),
        ),
    )
