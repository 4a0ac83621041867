"""The InferenceService as users write it. A field stands here only once it works."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field

from aweigh_api import names
from aweigh_api.schema import Rule, Schema

URI_SCHEMES = ("builtin", "file", "pvc", "hf")
DTypeName = Literal["auto", "bf16", "fp16", "fp32"]
GPU = "nvidia.com/gpu"

_QUANTITY = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$"
_INT_OR_STRING = {
    "x-kubernetes-int-or-string": True,
    "anyOf": [{"type": "integer"}, {"type": "string"}],
    "pattern": _QUANTITY,
    "maxLength": 64,
}


def _is_quantity(value: int | str) -> int | str:
    if re.search(_QUANTITY, str(value)) is None:
        raise ValueError(f"{value!r} is not a quantity such as 2, 500m or 40Gi")
    return value


Quantity = Annotated[
    int | str,
    AfterValidator(_is_quantity),
    Field(json_schema_extra={"replace": _INT_OR_STRING}),
]
Name = Annotated[str, Field(min_length=1, max_length=253)]
Labels = Annotated[dict[str, str], Field(max_length=32)]

_URI = (
    r"^(builtin://[a-z0-9][a-z0-9.-]*|file:///.+|pvc://[a-z0-9][a-z0-9.-]*(/.*)?"
    r"|hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)$"
)
_NAME = rf"^[a-z]([-a-z0-9]{{0,{names.MAX_NAME_LENGTH - 2}}}[a-z0-9])?$"
_RESERVED = ("app.kubernetes.io/", names.GROUP)


class SecretRef(Schema):
    """A Secret in the InferenceService's namespace."""

    name: Name = Field(description="Name of the Secret.")


class Model(Schema):
    """Which model is served."""

    uri: str = Field(
        min_length=1,
        max_length=1024,
        description=(
            "Where the weights are: builtin://NAME (shipped with the runtime), file:///PATH (in "
            "the runtime's container), pvc://CLAIM/PATH (a PersistentVolumeClaim of this "
            "namespace) or hf://ORGANISATION/MODEL (a Hugging Face repository)."
        ),
    )
    name: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$",
        description="The model's name in the OpenAI API. Default: the InferenceService's name.",
    )
    revision: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$",
        description="Branch, tag or commit of an hf:// repository. A commit pins the weights.",
    )
    secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret whose key `token` gives access to an hf:// repository. It is mounted "
        "into the pod; the operator never reads it.",
    )
    max_model_len: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Most tokens of prompt and answer together. Default: what the model was made "
        "for.",
    )
    dtype: DTypeName = Field(
        default="auto",
        description="Number format of weights and activations; auto is the checkpoint's.",
    )

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"self.uri.matches(r'{_URI}')",
            message="model.uri must be builtin://NAME, file:///PATH, pvc://CLAIM/PATH or "
            "hf://ORGANISATION/MODEL",
            holds=lambda model: re.search(_URI, model.uri) is not None,
        ),
        Rule(
            cel="!self.uri.split('/').exists(part, part == '..')",
            message="model.uri must not contain '..': give the path itself",
            holds=lambda model: ".." not in model.uri.split("/"),
        ),
        Rule(
            cel="!has(self.revision) || self.uri.startsWith('hf://')",
            message="model.revision is only for hf:// models: remove it, or give an hf:// uri",
            holds=lambda model: model.revision is None or model.uri.startswith("hf://"),
        ),
        Rule(
            cel="!has(self.secretRef) || self.uri.startsWith('hf://')",
            message="model.secretRef is only for hf:// models: remove it, or give an hf:// uri",
            holds=lambda model: model.secret_ref is None or model.uri.startswith("hf://"),
        ),
    )


def _one_gpu(part: str) -> Rule:
    return Rule(
        cel=f"!has(self.{part}) || !('{GPU}' in self.{part}) || "
        f"string(self.{part}['{GPU}']) in ['0', '1']",
        message=f"resources.{part}['{GPU}'] must be 0 or 1: a pod serves from one GPU; use "
        "replicas to serve from several",
        holds=lambda resources: str((getattr(resources, part) or {}).get(GPU, 0)) in ("0", "1"),
    )


class Resources(Schema):
    """What a serving pod asks of its node."""

    limits: Annotated[dict[str, Quantity], Field(max_length=16)] | None = Field(
        default=None, description="Upper bounds: cpu, memory, nvidia.com/gpu, ephemeral-storage."
    )
    requests: Annotated[dict[str, Quantity], Field(max_length=16)] | None = Field(
        default=None, description="What the scheduler reserves; by default the limits."
    )

    RULES: ClassVar[tuple[Rule, ...]] = (_one_gpu("limits"), _one_gpu("requests"))


class Rollout(Schema):
    """How a change of the spec reaches the pods."""

    progress_deadline_seconds: int = Field(
        default=1800,
        ge=60,
        le=86_400,
        description="Longest time for a new pod to become ready, download and loading included; "
        "after that the pod is restarted and the rollout reported as failed.",
    )
    allow_downtime: bool = Field(
        default=False,
        description="Stop the old pod before the new one starts, for clusters without a spare GPU. "
        "Requests fail in between when there is one replica.",
    )


class Drain(Schema):
    """How a pod goes."""

    settle_seconds: int = Field(
        default=5,
        ge=0,
        le=300,
        description="How long a stopping pod still takes new requests, until every client has "
        "learned that it goes.",
    )
    timeout_seconds: int = Field(
        default=120,
        ge=0,
        le=3600,
        description="How long open requests may then take to finish.",
    )


class LabelExpression(Schema):
    """A requirement on a label."""

    key: Name = Field(description="The label.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(description="The relation.")
    values: Annotated[list[str], Field(max_length=32)] | None = Field(
        default=None, description="The values for In and NotIn."
    )


class LabelSelector(Schema):
    """Selects objects by their labels; an empty one selects all."""

    match_labels: Labels | None = Field(default=None, description="Labels that must be equal.")
    match_expressions: Annotated[list[LabelExpression], Field(max_length=16)] | None = Field(
        default=None, description="Requirements that must all hold."
    )


class IPBlock(Schema):
    """A range of addresses."""

    cidr: Annotated[str, Field(max_length=64)] = Field(description="Such as 10.0.0.0/8.")
    except_: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=32)] | None = (
        Field(default=None, alias="except", description="Ranges inside cidr that are left out.")
    )


class Peer(Schema):
    """Who may connect: pods by labels, namespaces by labels, or addresses."""

    pod_selector: LabelSelector | None = Field(default=None, description="Pods with these labels.")
    namespace_selector: LabelSelector | None = Field(
        default=None, description="Namespaces with these labels."
    )
    ip_block: IPBlock | None = Field(default=None, description="A range of addresses.")

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.ipBlock) != (has(self.podSelector) || has(self.namespaceSelector))",
            message="an entry of networkPolicy.ingressFrom needs either ipBlock, or podSelector "
            "and/or namespaceSelector",
            holds=lambda peer: (
                (peer.ip_block is not None)
                != (peer.pod_selector is not None or peer.namespace_selector is not None)
            ),
        ),
    )


class NetworkPolicy(Schema):
    """Who may reach the pods, and what they may reach."""

    enabled: bool = Field(default=True, description="Whether a NetworkPolicy is made.")
    ingress_from: Annotated[list[Peer], Field(max_length=32)] | None = Field(
        default=None,
        description="Who may call the API; absent: everybody in the cluster. As `from` in a "
        "NetworkPolicy.",
    )

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.enabled || !has(self.ingressFrom)",
            message="networkPolicy.ingressFrom has no effect with networkPolicy.enabled false: "
            "remove one of the two",
            holds=lambda policy: policy.enabled or policy.ingress_from is None,
        ),
    )


class Disruption(Schema):
    """What node drains may take at once."""

    min_available: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Pods that must stay while nodes are drained. Default: all but one. Matters "
        "with two or more replicas.",
    )


class EnvVar(Schema):
    """A variable of the runtime's environment."""

    name: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = Field(
        description="Name of the variable."
    )
    value: Annotated[str, Field(max_length=4096)] = Field(default="", description="Its value.")


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
    annotations: Annotated[dict[str, str], Field(max_length=32)] | None = Field(
        default=None, description="Annotations of the pods."
    )

    RULES: ClassVar[tuple[Rule, ...]] = (_reserved("labels"), _reserved("annotations"))


def _part(model: type[Schema], description: str) -> Any:
    """A part that is always there: its fields' defaults apply also when it is not written."""
    return Field(default_factory=model, description=description, json_schema_extra={"default": {}})


class Spec(Schema):
    """What is served, by how many pods, and how they come and go."""

    model: Model = Field(description="The model to serve.")
    replicas: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Number of pods. One runs when it is not given; 0 stops serving.",
    )
    resources: Resources | None = Field(default=None, description="What a pod asks of its node.")
    rollout: Rollout = _part(Rollout, "How a change of the spec reaches the pods.")
    drain: Drain = _part(Drain, "How a pod goes.")
    network_policy: NetworkPolicy = _part(NetworkPolicy, "Who may reach the pods.")
    disruption: Disruption | None = Field(
        default=None, description="What node drains may take at once."
    )
    template: Template | None = Field(
        default=None, description="Placement, environment, labels and annotations of the pods."
    )
    suspend: bool = Field(
        default=False, description="Stop all pods and keep everything else, until set back."
    )

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.replicas) || self.replicas < 2 || !has(self.disruption) || "
            "!has(self.disruption.minAvailable) || self.disruption.minAvailable < self.replicas",
            message="disruption.minAvailable must be less than replicas, or no node could ever be "
            "drained",
            holds=lambda spec: (
                (spec.replicas or 0) < 2
                or spec.disruption is None
                or (spec.disruption.min_available or 0) < spec.replicas
            ),
        ),
    )

    @property
    def wanted_replicas(self) -> int:
        """Pods that should run."""
        if self.suspend:
            return 0
        return 1 if self.replicas is None else self.replicas


class Metadata(Schema):
    """The part of an object's metadata that Aweigh reads."""

    model_config = ConfigDict(extra="ignore")

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    annotations: dict[str, str] = Field(default_factory=dict)


class InferenceService(Schema):
    """A model that is served: an OpenAI-compatible endpoint and the pods behind it."""

    model_config = ConfigDict(extra="ignore")

    metadata: Metadata
    spec: Spec = Field(description="What is wanted.")

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"self.metadata.name.matches(r'{_NAME}')",
            message="metadata.name must start with a letter and have at most "
            f"{names.MAX_NAME_LENGTH} lower-case letters, digits and '-': it names the Service",
            holds=lambda service: re.search(_NAME, service.metadata.name) is not None,
        ),
    )

    @property
    def model_name(self) -> str:
        """The model's name in the OpenAI API."""
        return self.spec.model.name or self.metadata.name
