"""Specs that contradict themselves, each with the sentence that the user must read.

The same table is put to the Python models and to a real API server: both must refuse alike.
"""

from typing import Any, NamedTuple

from aweigh_api.schema import Rule, Schema

HF = {"uri": "hf://meta-llama/Llama-3.1-8B-Instruct"}
DRAFT = {"uri": "builtin://helmsman-1m-draft"}


class Refusal(NamedTuple):
    """A spec, and a part of the sentence that refuses it."""

    title: str
    spec: dict[str, Any]
    sentence: str
    name: str = "chat"


def spec(**parts: Any) -> dict[str, Any]:
    """A valid spec, some parts replaced."""
    return {"model": {"uri": "builtin://helmsman-8m"}, **parts}


REFUSALS = (
    Refusal(
        "a URI of an unknown scheme",
        spec(model={"uri": "ftp://models/llama"}),
        "model.uri must be builtin://NAME",
    ),
    Refusal(
        "a URI without a scheme",
        spec(model={"uri": "meta-llama/Llama-3.1-8B-Instruct"}),
        "[:TAG|@DIGEST]; it is 'meta-llama/Llama-3.1-8B-Instruct'",
    ),
    Refusal(
        "memory in a unit that Kubernetes does not know",
        spec(resources={"limits": {"memory": "10GB"}}),
        "expected a quantity, such as 2, 500m, 10Gi or 10G; units have no B",
    ),
    Refusal(
        "less memory than none",
        spec(resources={"requests": {"memory": "-1Gi"}}),
        "expected a quantity, such as 2, 500m, 10Gi or 10G",
    ),
    Refusal(
        "a unit of memory and no number",
        spec(resources={"limits": {"memory": "Ki"}}),
        "expected a quantity, such as 2, 500m, 10Gi or 10G",
    ),
    Refusal(
        "an exponent and no number",
        spec(resources={"requests": {"cpu": "e3"}}),
        "expected a quantity, such as 2, 500m, 10Gi or 10G",
    ),
    Refusal(
        "a cache of a unit and no number",
        spec(prefixCache={"size": "m"}),
        "expected an amount of memory, such as 10Gi or 10G",
    ),
    Refusal(
        "a cache of a point",
        spec(prefixCache={"hostMemory": "."}),
        "expected an amount of memory, such as 10Gi or 10G",
    ),
    Refusal(
        "a cache of more than all memory there is",
        spec(prefixCache={"size": "1e999"}),
        "prefixCache.size must be more than 0 and at most 1Pi",
    ),
    Refusal(
        "a cache of a size in such a unit",
        spec(prefixCache={"size": "10GB"}),
        "expected an amount of memory, such as 10Gi or 10G, or bytes; units have no B",
    ),
    Refusal(
        "a cache of some billionths of a byte",
        spec(prefixCache={"hostMemory": "4n"}),
        "expected an amount of memory, such as 10Gi or 10G",
    ),
    Refusal(
        "a path that climbs",
        spec(model={"uri": "file:///models/../etc"}),
        "model.uri must not contain '..'",
    ),
    Refusal(
        "a revision of what has none",
        spec(model={"uri": "builtin://helmsman-8m", "revision": "main"}),
        "model.revision is only for hf:// models",
    ),
    Refusal(
        "a Secret for a source that needs none",
        spec(model={"uri": "pvc://models/llama", "secretRef": {"name": "token"}}),
        "model.secretRef is only for hf://, s3:// and oci:// models and drafts",
    ),
    Refusal(
        "a cache for what is not downloaded",
        spec(model={"uri": "pvc://models/llama", "cache": {"claim": "cache"}}),
        "model.cache is only for what is downloaded",
    ),
    Refusal(
        "a bucket without a model",
        spec(model={"uri": "s3://models"}),
        "s3://BUCKET/PREFIX",
    ),
    Refusal(
        "a repository with a tag and a digest",
        spec(model={"uri": f"oci://ghcr.io/acme/llama:1@sha256:{'0' * 64}"}),
        "oci://REGISTRY/REPOSITORY[:TAG|@DIGEST]",
    ),
    Refusal(
        "guessing by nobody",
        spec(speculativeDecoding={"maxDraftTokens": 4}),
        "speculativeDecoding needs draftModels or a method",
    ),
    Refusal(
        "drafts without a draft model",
        spec(speculativeDecoding={"method": "draft"}),
        "speculativeDecoding.method draft needs draftModels",
    ),
    Refusal(
        "a draft model for n-grams",
        spec(speculativeDecoding={"method": "ngram", "draftModels": [DRAFT]}),
        "speculativeDecoding.draftModels have no effect with method ngram or none",
    ),
    Refusal(
        "a draft model for nothing",
        spec(speculativeDecoding={"method": "none", "draftModels": [DRAFT]}),
        "speculativeDecoding.draftModels have no effect with method ngram or none",
    ),
    Refusal(
        "the same draft model twice",
        spec(speculativeDecoding={"draftModels": [HF, DRAFT, DRAFT]}),
        "speculativeDecoding.draftModels has a model twice",
    ),
    Refusal(
        "a number of guesses where nobody guesses",
        spec(speculativeDecoding={"method": "none", "maxDraftTokens": 4}),
        "have no effect with method none",
    ),
    Refusal(
        "an acceptance where nobody guesses",
        spec(speculativeDecoding={"method": "none", "minAcceptancePercent": 50}),
        "have no effect with method none",
    ),
    Refusal(
        "a draft model from nowhere",
        spec(speculativeDecoding={"draftModels": [{"uri": "helmsman-1m-draft"}]}),
        "speculativeDecoding.draftModels[].uri must be builtin://NAME",
    ),
    Refusal(
        "a draft model whose path climbs",
        spec(speculativeDecoding={"draftModels": [{"uri": "pvc://models/../draft"}]}),
        "speculativeDecoding.draftModels[].uri must not contain '..'",
    ),
    Refusal(
        "a revision of a draft model that has none",
        spec(speculativeDecoding={"draftModels": [{**DRAFT, "revision": "main"}]}),
        "speculativeDecoding.draftModels[].revision is only for hf:// drafts",
    ),
    Refusal(
        "a Secret for a model and a draft that need none",
        spec(
            model={"uri": "pvc://models/llama", "secretRef": {"name": "token"}},
            speculativeDecoding={"draftModels": [DRAFT]},
        ),
        "model.secretRef is only for hf://, s3:// and oci:// models and drafts",
    ),
    Refusal(
        "a size of a prefix cache that is off",
        spec(prefixCache={"enabled": False, "size": "40Gi"}),
        "have no effect with prefixCache.enabled false",
    ),
    Refusal(
        "host memory of a prefix cache that is off",
        spec(prefixCache={"enabled": False, "hostMemory": "40Gi"}),
        "have no effect with prefixCache.enabled false",
    ),
    Refusal(
        "blocks of a prefix cache that is off",
        spec(prefixCache={"enabled": False, "blockTokens": 32}),
        "have no effect with prefixCache.enabled false",
    ),
    Refusal(
        "the scope of a prefix cache that is off",
        spec(prefixCache={"enabled": False, "scope": "Service"}),
        "have no effect with prefixCache.enabled false",
    ),
    Refusal(
        "a prefix cache of no bytes",
        spec(prefixCache={"size": "0Gi"}),
        "prefixCache.size must be more than 0 and at most 1Pi",
    ),
    Refusal(
        "a prefix cache that no machine has",
        spec(prefixCache={"size": "1025Ti"}),
        "prefixCache.size must be more than 0 and at most 1Pi",
    ),
    Refusal(
        "no bytes of host memory",
        spec(prefixCache={"hostMemory": 0}),
        "prefixCache.hostMemory must be more than 0 and at most 1Pi",
    ),
    Refusal(
        "two GPUs as a limit",
        spec(resources={"limits": {"nvidia.com/gpu": 2}}),
        "resources.limits['nvidia.com/gpu'] must be 0 or 1",
    ),
    Refusal(
        "two GPUs as a request, written as text",
        spec(resources={"requests": {"nvidia.com/gpu": "2"}}),
        "resources.requests['nvidia.com/gpu'] must be 0 or 1",
    ),
    Refusal(
        "a disruption budget that allows no disruption",
        spec(replicas=2, disruption={"minAvailable": 2}),
        "disruption.minAvailable must be less than replicas",
    ),
    Refusal(
        "allowed callers without a policy",
        spec(networkPolicy={"enabled": False, "ingressFrom": [{"podSelector": {}}]}),
        "networkPolicy.ingressFrom has no effect with networkPolicy.enabled false",
    ),
    Refusal(
        "a caller by address and by labels",
        spec(
            networkPolicy={
                "ingressFrom": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}],
            }
        ),
        "needs either ipBlock, or podSelector",
    ),
    Refusal(
        "callers from no range of addresses",
        spec(networkPolicy={"ingressFrom": [{"ipBlock": {"cidr": "nonsense"}}]}),
        "ipBlock.cidr must be a range of addresses",
    ),
    Refusal(
        "an exception outside of the range",
        spec(
            networkPolicy={
                "ingressFrom": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]
            }
        ),
        "each entry of ipBlock.except must be",
    ),
    Refusal(
        "a variable that has a field of its own",
        spec(template={"env": [{"name": "AWEIGH_PORT", "value": "7"}]}),
        "template.env must not set what has a field of its own",
    ),
    Refusal(
        "a label that the operator sets",
        spec(template={"labels": {"app.kubernetes.io/name": "mine"}}),
        "template.labels must not use keys that start with",
    ),
    Refusal(
        "an annotation that the operator sets",
        spec(template={"annotations": {"serving.aweigh.dev/template-hash": "0"}}),
        "template.annotations must not use keys that start with",
    ),
    Refusal(
        "a name that no Service can have",
        spec(),
        "metadata.name must start with a letter",
        name="8b-chat",
    ),
    Refusal(
        "a name that is too long for the children's names",
        spec(),
        "metadata.name must start with a letter",
        name="c" * 51,
    ),
    Refusal(
        "a number of pods beside a rule for it",
        spec(replicas=2, scaling={"maxReplicas": 4}),
        "replicas and scaling contradict each other",
    ),
    Refusal(
        "bounds that contradict",
        spec(scaling={"minReplicas": 5, "maxReplicas": 4}),
        "scaling.minReplicas must not be more than maxReplicas",
    ),
    Refusal(
        "a fallback without a number",
        spec(scaling={"maxReplicas": 4, "fallback": {"onMissingMetrics": "Static"}}),
        "scaling.fallback.replicas goes with onMissingMetrics Static",
    ),
    Refusal(
        "a number of pods that holds nothing",
        spec(scaling={"maxReplicas": 4, "fallback": {"replicas": 2}}),
        "scaling.fallback.replicas goes with onMissingMetrics Static",
    ),
    Refusal(
        "a fallback beyond the bounds",
        spec(scaling={"maxReplicas": 4, "fallback": {"onMissingMetrics": "Static", "replicas": 5}}),
        "scaling.fallback.replicas must not be more than maxReplicas",
    ),
    Refusal(
        "pods that must stay, be there ever so many",
        spec(scaling={"maxReplicas": 4}, disruption={"minAvailable": 4}),
        "disruption.minAvailable must be less than scaling.maxReplicas",
    ),
    Refusal(
        "no pods, and nothing that holds requests",
        spec(scaling={"minReplicas": 0, "maxReplicas": 4}, router={"replicas": 0}),
        "scaling.minReplicas 0 needs a router",
    ),
    Refusal(
        "an idle time after which nothing happens",
        spec(scaling={"maxReplicas": 4, "idleAfterSeconds": 60}),
        "scaling.idleAfterSeconds goes with minReplicas 0",
    ),
)

# Amounts of memory as the API server takes them, each with its bytes.
AMOUNTS = (
    ("10Gi", 10 << 30),
    ("1.", 1),
    (".5k", 500),
    ("1e007", 10_000_000),
    ("1E2", 100),
    ("1500m", 2),
    ("1e-200", 1),
    (7, 7),
)
OUT_OF_RANGE = (
    ("replicas below zero", spec(replicas=-1), "spec.replicas"),
    ("replicas without end", spec(replicas=100_000), "spec.replicas"),
    (
        "a scheme of quantization that does not exist",
        spec(quantization={"scheme": "int3"}),
        "spec.quantization.scheme",
    ),
    (
        "a number format of the cache that does not exist",
        spec(quantization={"kvCacheDtype": "fp4"}),
        "spec.quantization.kvCacheDtype",
    ),
    (
        "a way to guess that does not exist",
        spec(speculativeDecoding={"method": "eagle"}),
        "spec.speculativeDecoding.method",
    ),
    (
        "guesses of no tokens",
        spec(speculativeDecoding={"method": "ngram", "maxDraftTokens": 0}),
        "spec.speculativeDecoding.maxDraftTokens",
    ),
    (
        "guesses of 17 tokens",
        spec(speculativeDecoding={"method": "ngram", "maxDraftTokens": 17}),
        "spec.speculativeDecoding.maxDraftTokens",
    ),
    (
        "an acceptance of nothing",
        spec(speculativeDecoding={"method": "ngram", "minAcceptancePercent": 0}),
        "spec.speculativeDecoding.minAcceptancePercent",
    ),
    (
        "no draft model at all",
        spec(speculativeDecoding={"draftModels": []}),
        "spec.speculativeDecoding.draftModels",
    ),
    (
        "five draft models",
        spec(speculativeDecoding={"draftModels": [{"uri": f"builtin://d{i}"} for i in range(5)]}),
        "spec.speculativeDecoding.draftModels",
    ),
    ("a dtype that does not exist", spec(model={**HF, "dtype": "int3"}), "spec.model.dtype"),
    ("a context of no tokens", spec(model={**HF, "maxModelLen": 0}), "spec.model.maxModelLen"),
    ("a fraction of a second", spec(drain={"settleSeconds": 0.5}), "spec.drain.settleSeconds"),
    ("an hour and a second", spec(drain={"timeoutSeconds": 3601}), "spec.drain.timeoutSeconds"),
    (
        "a deadline that no model can meet",
        spec(rollout={"progressDeadlineSeconds": 5}),
        "spec.rollout.progressDeadlineSeconds",
    ),
    ("a quantity that is none", spec(resources={"limits": {"cpu": "two"}}), "spec.resources"),
    ("memory that is none", spec(prefixCache={"size": "much"}), "spec.prefixCache.size"),
    ("blocks of seven", spec(prefixCache={"blockTokens": 7}), "spec.prefixCache.blockTokens"),
    ("a scope of its own", spec(prefixCache={"scope": "Mine"}), "spec.prefixCache.scope"),
    ("keys from nowhere", spec(auth={"apiKeys": {}}), "spec.auth.apiKeys.secretRef"),
    ("a certificate from nowhere", spec(tls={"secretRef": {}}), "spec.tls.secretRef.name"),
    ("routers without end", spec(router={"replicas": 33}), "spec.router.replicas"),
    (
        "a pause of a moment",
        spec(scaling={"minReplicas": 0, "maxReplicas": 1, "idleAfterSeconds": 1}),
        "spec.scaling.idleAfterSeconds",
    ),
    ("no model at all", {"replicas": 1}, "spec.model"),
)


def manifest(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """An InferenceService as a user applies it."""
    return {
        "apiVersion": "serving.aweigh.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": spec,
    }


def rules() -> list[Rule]:
    """Every rule of every part of an InferenceService."""
    models: list[type[Schema]] = Schema.__subclasses__()
    return [rule for model in models for rule in model.RULES]
