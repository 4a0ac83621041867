"""The status of an InferenceService: what its pods tell, in few words. Pure."""

from datetime import datetime

from aweigh_api import names
from aweigh_api.reasons import Reason
from aweigh_api.state import ServedModel
from aweigh_api.status import (
    Condition,
    ModelStatus,
    PrefixCacheStatus,
    QuantizationStatus,
    ScalingStatus,
    SpeculationStatus,
    Status,
)
from aweigh_operator import conditions, replicas, speculation
from aweigh_operator.conditions import Wanted
from aweigh_operator.desired import template
from aweigh_operator.observe import Manifest, Observed, Pod
from aweigh_operator.parse import parse
from aweigh_operator.route import way

MAX_NAME, MAX_DTYPE = 256, 16  # what the schema of the status takes of a pod's report


def status(observed: Observed, told: list[Condition], scaling: ScalingStatus | None) -> Status:
    """What is there, with these conditions."""
    metadata, pods = observed.body["metadata"], observed.live_pods
    return Status(
        observed_generation=metadata.get("generation", 0),
        replicas=len(pods),
        ready_replicas=sum(pod.ready for pod in pods),
        selector=",".join(f"{k}={v}" for k, v in names.selector(metadata["name"]).items()),
        url=_url(observed),
        runtime_image=template.image_of(observed.children.get("Deployment")),
        model=_model(observed),
        quantization=_quantization(observed),
        prefix_cache=_prefix_cache(observed),
        speculation=_speculation(observed),
        scaling=scaling,
        conditions=told,
    )


def scaling(observed: Observed, wanted: Wanted, now: datetime) -> ScalingStatus | None:
    """A spec that cannot be read asks for nothing: what was told stands."""
    if wanted.spec is None:
        return replicas.told_before(observed.body)
    return replicas.status(observed, wanted.spec, now)


def _url(observed: Observed) -> str | None:
    """Where requests are answered; None while the Service of that name is somebody else's."""
    refusal = observed.refusals.get("Service")
    if refusal is not None and refusal.reason is Reason.NAME_CONFLICT:
        return None
    metadata = observed.body["metadata"]
    return names.url(metadata["name"], metadata["namespace"], tls=_speaks_tls(observed))


def _speaks_tls(observed: Observed) -> bool:
    """Whether what the Service leads to does: it follows the spec once no other pod serves."""
    wanted = "tls" in observed.body.get("spec", {})
    behind = observed.live_routers if way(observed.children).by_router else observed.live_pods
    others = any(pod.ready and pod.tls is not wanted for pod in behind)
    return not wanted if others else wanted


def _model(observed: Observed) -> ModelStatus | None:
    known, loading = _served(observed), conditions.slowest_loading(observed)
    progress = {
        "loaded_bytes": loading.done_bytes if loading else None,
        "total_bytes": loading.total_bytes if loading else None,
    }
    if known is not None:
        return ModelStatus(
            name=known.name[:MAX_NAME],
            max_model_len=known.max_model_len,
            dtype=known.dtype[:MAX_DTYPE],
            **progress,
        )
    name = _model_name(observed.body)
    return None if name is None else ModelStatus(name=name, **progress)


def _quantization(observed: Observed) -> QuantizationStatus | None:
    known = _served(observed)
    if known is None or known.quantization is None:
        return None
    kept = known.kv_cache_dtype
    return QuantizationStatus(
        scheme=known.quantization[:MAX_DTYPE],
        kv_cache_dtype=None if kept is None else kept[:MAX_DTYPE],
    )


def _prefix_cache(observed: Observed) -> PrefixCacheStatus | None:
    """The hit rate of the last minutes, and the smallest bound of the pods that serve."""
    percent = observed.counts.hit_rate_percent
    reports = [observed.states.get(pod.uid) for pod in observed.live_pods if pod.ready]
    bounds = [state.prefix_cache_bytes for state in reports if state is not None]
    known = [bound for bound in bounds if bound is not None]
    if percent is None and not known:
        return None
    return PrefixCacheStatus(hit_rate_percent=percent, effective_bytes=min(known, default=None))


def _speculation(observed: Observed) -> SpeculationStatus | None:
    """The worst state of the pods that serve, and what guessing was worth in the last minutes."""
    told = speculation.worst(observed)
    if told is None:
        return None
    return SpeculationStatus(
        state=told.state[:MAX_DTYPE],
        acceptance_percent=observed.counts.acceptance_percent,
        mean_accepted_length=observed.counts.mean_accepted_length,
    )


def _served(observed: Observed) -> ServedModel | None:
    """As the newest pod that has loaded it reports it."""
    reports = [observed.states.get(pod.uid) for pod in _newest_first(observed)]
    served = (state.model for state in reports if state is not None and state.model is not None)
    return next(served, None)


def _newest_first(observed: Observed) -> list[Pod]:
    return sorted(observed.live_pods, key=lambda pod: pod.created_at, reverse=True)


def _model_name(body: Manifest) -> str | None:
    service = parse(body)
    return None if isinstance(service, str) else service.model_name
