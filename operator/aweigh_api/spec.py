"""The InferenceService as users write it. A field stands here only once it works."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from aweigh_api import model_uri, names
from aweigh_api.access import Auth, SecretRef, Tls
from aweigh_api.fields import Name, Quantity, part
from aweigh_api.network import NetworkPolicy
from aweigh_api.prefix_cache import PrefixCache
from aweigh_api.quantization import Quantization
from aweigh_api.router import DEFAULT_REPLICAS, Router
from aweigh_api.scaling import Scaling
from aweigh_api.schema import Rule, Schema
from aweigh_api.speculation import DraftModel, SpeculativeDecoding
from aweigh_api.template import Template

DTypeName = Literal["auto", "bf16", "fp16", "fp32"]
GPU = "nvidia.com/gpu"
_NAME = rf"^[a-z]([-a-z0-9]{{0,{names.MAX_NAME_LENGTH - 2}}}[a-z0-9])?$"


class ModelCache(Schema):
    """Where pods keep what they have downloaded."""

    claim: Name = Field(
        description="A PersistentVolumeClaim of this namespace that pods may write: a new pod "
        "finds there what another one has downloaded, and the kernels that it has compiled. It "
        "must be ReadWriteMany where pods run on several nodes."
    )
    prefetch: bool = Field(
        default=False,
        description="Fetch the models by a Job before pods are made that serve them: no GPU waits "
        "for a download, and what serves stays until the next model is there.",
    )


class Model(Schema):
    """Which model is served."""

    uri: str = Field(
        min_length=1,
        max_length=1024,
        description=f"Where the weights are: {model_uri.FORMS}.",
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
        pattern=model_uri.REVISION,
        description="Branch, tag or commit of an hf:// repository. A commit pins the weights.",
    )
    secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret that opens the source, and those of draft models. Its keys for hf://: "
        "token; for s3://: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, where needed, "
        "AWS_SESSION_TOKEN, AWS_REGION and AWS_ENDPOINT_URL; for oci://: username and password, or "
        ".dockerconfigjson. It is mounted into the pod; the operator never reads it.",
    )
    cache: ModelCache | None = Field(
        default=None,
        description="Where downloads are kept. Default: with the pod, and each downloads for "
        "itself.",
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
        description="Number format of weights and activations; auto is the checkpoint's, or fp32 "
        "on a CPU that only emulates it.",
    )

    RULES: ClassVar[tuple[Rule, ...]] = model_uri.rules("model", "models")


def _one_gpu(bound: str) -> Rule:
    return Rule(
        cel=f"!has(self.{bound}) || !('{GPU}' in self.{bound}) || "
        f"string(self.{bound}['{GPU}']) in ['0', '1']",
        message=f"resources.{bound}['{GPU}'] must be 0 or 1: a pod serves from one GPU; use "
        "replicas to serve from several",
        holds=lambda resources: str((getattr(resources, bound) or {}).get(GPU, 0)) in ("0", "1"),
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


class Disruption(Schema):
    """What node drains may take at once."""

    min_available: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Pods that must stay while nodes are drained. Default: all but one. Matters "
        "with two or more replicas.",
    )


def _any_starts(uri: str) -> str:
    return " || ".join(f"{uri}.startsWith('{each}')" for each in model_uri.FETCHED)


class Spec(Schema):
    """What is served, by how many pods, and how they come and go."""

    model: Model = Field(description="The model to serve.")
    quantization: Quantization = part(
        Quantization, "In which numbers weights, keys and values are kept."
    )
    speculative_decoding: SpeculativeDecoding | None = Field(
        default=None,
        description="How answers are guessed ahead, so that they come sooner. Default: not at all.",
    )
    prefix_cache: PrefixCache = part(PrefixCache, "What pods keep of prompts and answers.")
    replicas: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Number of pods. One runs when it is not given; 0 stops serving.",
    )
    scaling: Scaling | None = Field(
        default=None,
        description="How the number of pods follows the load, and what caches and drafts make of "
        "it. Default: `replicas` says it.",
    )
    router: Router | None = Field(
        default=None,
        description="What holds requests before the pods. Default: two routers where more than one "
        "pod may run, or none while nothing is asked; else no router.",
    )
    resources: Resources | None = Field(default=None, description="What a pod asks of its node.")
    rollout: Rollout = part(Rollout, "How a change of the spec reaches the pods.")
    drain: Drain = part(Drain, "How a pod goes.")
    auth: Auth | None = Field(
        default=None, description="Who may use the API. Default: whoever can reach it."
    )
    tls: Tls | None = Field(
        default=None, description="How the API is encrypted. Default: not at all, plain HTTP."
    )
    network_policy: NetworkPolicy = part(NetworkPolicy, "Who may reach the pods.")
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
            cel="!has(self.model.cache) || "
            + _any_starts("self.model.uri")
            + " || (has(self.speculativeDecoding) && has(self.speculativeDecoding.draftModels) && "
            f"self.speculativeDecoding.draftModels.exists(each, {_any_starts('each.uri')}))",
            message="model.cache is only for what is downloaded, hf://, s3:// and oci:// models "
            "and drafts: remove it, or give such a uri",
            holds=lambda spec: (
                spec.model.cache is None
                or any(uri.startswith(model_uri.FETCHED) for uri in spec.uris)
            ),
        ),
        Rule(
            cel="!has(self.model.secretRef) || "
            + _any_starts("self.model.uri")
            + " || (has(self.speculativeDecoding) && has(self.speculativeDecoding.draftModels) && "
            f"self.speculativeDecoding.draftModels.exists(each, {_any_starts('each.uri')}))",
            message="model.secretRef is only for hf://, s3:// and oci:// models and drafts: remove "
            "it, or give such a uri",
            holds=lambda spec: (
                spec.model.secret_ref is None
                or any(uri.startswith(model_uri.FETCHED) for uri in spec.uris)
            ),
        ),
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
        Rule(
            cel="!has(self.replicas) || !has(self.scaling) || self.scaling.mode == 'DryRun'",
            message="replicas and scaling contradict each other: remove replicas, and give "
            "scaling.minReplicas and maxReplicas instead; or remove scaling",
            holds=lambda spec: (
                spec.replicas is None or spec.scaling is None or not spec.scaling.enforced
            ),
        ),
        Rule(
            cel="!has(self.scaling) || self.scaling.mode == 'DryRun' || "
            "self.scaling.maxReplicas < 2 || !has(self.disruption) || "
            "!has(self.disruption.minAvailable) || "
            "self.disruption.minAvailable < self.scaling.maxReplicas",
            message="disruption.minAvailable must be less than scaling.maxReplicas, or no node "
            "could ever be drained",
            holds=lambda spec: (
                spec.scaling is None
                or not spec.scaling.enforced
                or spec.scaling.max_replicas < 2
                or spec.disruption is None
                or (spec.disruption.min_available or 0) < spec.scaling.max_replicas
            ),
        ),
        Rule(
            cel="!has(self.router) || self.router.replicas > 0 || !has(self.scaling) || "
            "self.scaling.minReplicas > 0",
            message="scaling.minReplicas 0 needs a router, which holds requests while no pod runs: "
            "give router.replicas 1 or more, or minReplicas 1 or more",
            holds=lambda spec: (
                spec.router is None
                or spec.router.replicas > 0
                or spec.scaling is None
                or spec.scaling.min_replicas > 0
            ),
        ),
    )

    @property
    def routers(self) -> int:
        """Routers that shall stand before the pods; 0: requests go straight to them."""
        if self.router is not None:
            return self.router.replicas
        many = self.most_pods > 1 or (self.scaling is not None and self.scaling.min_replicas == 0)
        return DEFAULT_REPLICAS if many else 0

    @property
    def routed(self) -> bool:
        """Whether requests go through a router: it follows from the spec alone."""
        return self.routers > 0

    @property
    def most_pods(self) -> int:
        """The most pods that may run at a time, rollouts apart."""
        if self.scaling is not None and self.scaling.enforced:
            return self.scaling.max_replicas
        return 1 if self.replicas is None else self.replicas

    @property
    def draft_models(self) -> list[DraftModel]:
        """The models that guess."""
        drafts = self.speculative_decoding
        return [] if drafts is None else drafts.draft_models or []

    @property
    def uris(self) -> list[str]:
        """Where everything is that a pod loads, the model first."""
        return [self.model.uri, *(draft.uri for draft in self.draft_models)]

    @property
    def speculates(self) -> bool:
        """Whether answers shall be guessed ahead."""
        drafts = self.speculative_decoding
        return drafts is not None and drafts.wanted_method != "none"

    def wanted_replicas(self, scaled: int | None) -> int:
        """Pods that should run.

        Args:
            scaled: to what the load asks for; None: nobody knows yet.
        """
        if self.suspend:
            return 0
        if self.scaling is None or not self.scaling.enforced:
            return 1 if self.replicas is None else self.replicas
        least, most = self.scaling.min_replicas, self.scaling.max_replicas
        if scaled is None:  # a new service shows once that its model serves
            return max(least, 1)
        return min(max(scaled, least), most)


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
            holds=lambda service: re.fullmatch(_NAME, service.metadata.name) is not None,
        ),
    )

    @property
    def model_name(self) -> str:
        """The model's name in the OpenAI API."""
        return self.spec.model.name or self.metadata.name
