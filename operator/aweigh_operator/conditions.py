"""Conditions of an InferenceService. Pure: observed → verdicts → conditions.

Ready says whether requests are answered: a pod serves, and a router where there is one, and a
Service leads there. WorkloadReady says whether as many pods serve as are wanted, all of them as the
spec asks for: it is False while a rollout is under way or fails. What is still to come, or does not
come, while others answer makes neither ModelReady nor Ready False; Ready takes the reason and the
sentence of WorkloadReady, so that it is seen in every listing, and before that those of a spec that
is not valid or cannot be applied.

A Ready that is False has the reason of the first condition that is False, in the order of
ConditionType; one that is Unknown only waits for another, and pods that are missing count only
while none serves. WorkloadReady is False with Suspended when no pod is wanted.

PrefixCacheWarm tells how well the caches do; Ready does not depend on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from aweigh_api.reasons import ConditionType, Reason
from aweigh_api.spec import Spec
from aweigh_api.state import Loading
from aweigh_api.status import Condition, ScalingStatus
from aweigh_operator import replicas, rollout, routing, speculation, troubles
from aweigh_operator.observe import Observed
from aweigh_operator.places import PODS_SERVICE
from aweigh_operator.route import STRAIGHT, Route
from aweigh_operator.troubles import Trouble
from aweigh_operator.verdict import Verdict

MAX_MESSAGE = 2048
WARM_PERCENT = 1
_ROLLING = "; a rollout replaces pods"
_PARTS = (
    ConditionType.SPEC_VALID,
    ConditionType.MODEL_READY,
    ConditionType.WORKLOAD_READY,
    ConditionType.ROUTER_READY,
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the pods are measured by."""

    replicas: int
    suspended: bool
    template_hash: str | None  # None when the spec cannot be read
    spec: Spec | None = None  # likewise
    fetching: bool = False  # new pods wait for what they shall serve
    route: Route = STRAIGHT  # by which requests come to them
    drift: str | None = None  # what somebody has added to them by hand
    shown: bool = True  # what the spec asks for serves, or did before the last pod went

    @property
    def unasked(self) -> bool:
        """No pod is wanted, because nothing is asked."""
        scaling = None if self.spec is None or self.suspended else self.spec.scaling
        return self.replicas == 0 and scaling is not None and scaling.to_zero

    @property
    def at_zero(self) -> bool:
        """It sleeps, and the next request is served."""
        return self.unasked and self.shown


def verdicts(
    observed: Observed,
    wanted: Wanted,
    invalid: str | None,
    scaling: ScalingStatus | None,
) -> dict[ConditionType, Verdict]:
    """Every condition, Ready first."""
    trouble = troubles.worst(observed, wanted.template_hash)
    serving = sum(troubles.steady(pod, observed) for pod in observed.live_pods)
    blocking = None if serving or not wanted.replicas else trouble
    parts = {
        ConditionType.SPEC_VALID: _spec(observed, invalid, blocking, wanted.drift),
        ConditionType.MODEL_READY: _model(observed, serving, wanted, blocking),
        ConditionType.WORKLOAD_READY: _workload(observed, serving, wanted, trouble),
    }
    if (router := routing.verdict(observed, wanted.route)) is not None:
        parts[ConditionType.ROUTER_READY] = router
    cache = {ConditionType.PREFIX_CACHE_WARM: _prefix_cache(observed, wanted)}
    spec = wanted.spec
    drafts = speculation.verdict(observed, spec is not None and spec.speculates)
    more = {} if drafts is None else {ConditionType.SPECULATION_EFFECTIVE: drafts}
    scaled = None if spec is None else replicas.verdict(observed, spec, scaling)
    more |= {} if scaled is None else {ConditionType.SCALING_ACTIVE: scaled}
    serves = serving > 0 and wanted.replicas > 0
    ready = _answered(observed, serving, wanted, parts) if serves else None
    return {ConditionType.READY: ready or _blocked(parts, serves=serves), **parts, **cache, **more}


def conditions(
    found: Mapping[ConditionType, Verdict],
    previous: list[Condition],
    generation: int,
    now: datetime,
) -> list[Condition]:
    """The conditions as written; the time moves only when a status does."""
    before = {each.type: each for each in previous}
    return [
        Condition(
            type=kind,
            status=verdict.status,
            reason=verdict.reason,
            message=verdict.message[:MAX_MESSAGE],
            last_transition_time=_since(before.get(kind), verdict, now),
            observed_generation=generation,
        )
        for kind, verdict in found.items()
    ]


def _spec(
    observed: Observed, invalid: str | None, trouble: Trouble | None, drift: str | None
) -> Verdict:
    if invalid is not None:
        return Verdict("False", Reason.INVALID_SPEC, invalid)
    for refusal in observed.refusals.values():
        return Verdict("False", refusal.reason, refusal.message)
    if trouble is not None and trouble.condition is ConditionType.SPEC_VALID:
        return Verdict("False", trouble.reason, trouble.message)
    if drift is not None:
        return Verdict("True", Reason.DRIFTED, f"the spec is valid and applied, but {drift}")
    return Verdict("True", Reason.VALID, "the spec is valid and applied")


def _model(observed: Observed, serving: int, wanted: Wanted, trouble: Trouble | None) -> Verdict:
    if serving:
        return Verdict("True", Reason.LOADED, "the model is loaded")
    if wanted.at_zero:
        return Verdict("True", Reason.SCALED_TO_ZERO, "the next request loads the model")
    if trouble is not None and trouble.condition is ConditionType.MODEL_READY:
        return Verdict("False", trouble.reason, trouble.message)
    loading = slowest_loading(observed)
    if trouble is not None or loading is None:
        return Verdict("Unknown", Reason.WAITING_FOR_PODS, "no pod has loaded the model yet")
    if loading.stage == "downloading":
        sentence = f"the model is being downloaded: {_progress(loading)}"
        return Verdict("False", Reason.DOWNLOADING, sentence)
    return Verdict("False", Reason.LOADING, f"the model is being loaded: {_progress(loading)}")


def _progress(loading: Loading) -> str:
    if loading.total_bytes is None:
        return f"{loading.done_bytes} bytes"
    return f"{loading.done_bytes} of {loading.total_bytes} bytes"


def slowest_loading(observed: Observed) -> Loading | None:
    """The report of the loading pod that has come least far."""
    fetchers = () if observed.fetcher is None else (observed.fetcher,)
    reports = [
        state.loading
        for pod in (*observed.live_pods, *fetchers)
        if not pod.ready and pod.running and (state := observed.states.get(pod.uid))
        if state.loading is not None
    ]
    return min(reports, key=lambda loading: loading.done_bytes, default=None)


def _workload(observed: Observed, serving: int, wanted: Wanted, trouble: Trouble | None) -> Verdict:
    if wanted.replicas == 0:
        return _no_pod(wanted)
    count = f"{serving} of {wanted.replicas} pods serve"
    rolling = _rolling(observed, wanted.template_hash)
    if serving < wanted.replicas:
        return _not_enough(serving, count, trouble or _withheld(observed), rolling=rolling)
    if wanted.replicas == 1 and (pod := rollout.blocked(observed, wanted.template_hash)):
        scaling = None if wanted.spec is None else wanted.spec.scaling
        idle = scaling is not None and scaling.to_zero
        remedy = "or wait until nothing is asked" if idle else "or set rollout.allowDowntime"
        return Verdict(
            "False",
            Reason.ROLLOUT_BLOCKED,
            f"{count}, but no node has room for the new pod {pod.name} beside it: "
            f"{troubles.short(pod.unschedulable or '')}; free or add a node, {remedy}",
        )
    if trouble is not None:
        status: Literal["True", "False"] = "False" if rolling else "True"
        return Verdict(status, trouble.reason, f"{count}, but {trouble.message}")
    if wanted.fetching:
        loading = slowest_loading(observed)
        far = "" if loading is None else f": {_progress(loading)}"
        sentence = f"{count}; what is new is downloaded before pods are replaced{far}"
        return Verdict("False", Reason.DOWNLOADING, sentence)
    if rolling:
        return Verdict("False", Reason.PROGRESSING, f"{count}{_ROLLING}")
    return Verdict("True", Reason.AVAILABLE, count)


def _no_pod(wanted: Wanted) -> Verdict:
    """WorkloadReady where none is wanted."""
    if wanted.at_zero:
        sentence = "no pod runs, as nothing is asked: the next request starts one"
        return Verdict("True", Reason.SCALED_TO_ZERO, sentence)
    if wanted.unasked:
        sentence = "no pod runs yet that serves what the spec asks for: old ones go first"
        return Verdict("False", Reason.PROGRESSING, sentence)
    why = "suspend is set" if wanted.suspended else "replicas is 0"
    return Verdict("False", Reason.SUSPENDED, f"{why}: no pod runs")


def _withheld(observed: Observed) -> Trouble | None:
    """Why no pod is made: one starts only once all that it needs is as it should be."""
    refusal = next(iter(observed.refusals.values()), None)
    if refusal is None or observed.live_pods:
        return None
    return Trouble(ConditionType.WORKLOAD_READY, refusal.reason, refusal.message)


def _not_enough(serving: int, count: str, trouble: Trouble | None, *, rolling: bool) -> Verdict:
    if trouble is None:
        return Verdict("False", Reason.PROGRESSING, f"{count}{_ROLLING if rolling else ''}")
    # What the runtime says of the spec or the model stands in that condition while no pod serves;
    # here: that it ends.
    elsewhere = not serving and trouble.condition is not ConditionType.WORKLOAD_READY
    reason = trouble.ends if elsewhere else trouble.reason
    return Verdict("False", reason, f"{count}: {trouble.message}")


def _rolling(observed: Observed, template_hash: str | None) -> bool:
    return any(
        template_hash is not None and pod.template_hash != template_hash
        for pod in observed.live_pods
    )


def _prefix_cache(observed: Observed, wanted: Wanted) -> Verdict:
    if wanted.spec is not None and not wanted.spec.prefix_cache.enabled:
        return Verdict("False", Reason.DISABLED, "prefixCache.enabled is false")
    counts = observed.counts
    total, percent = counts.cached + counts.computed, counts.hit_rate_percent
    if percent is None:
        return Verdict("Unknown", Reason.NO_PROMPTS, "no prompt was reported in the last minutes")
    sentence = f"{percent} % of the {total} prompt tokens of the last minutes came from the cache"
    if percent < WARM_PERCENT:
        return Verdict("False", Reason.COLD, sentence)
    return Verdict("True", Reason.WARM, sentence)


def _answered(
    observed: Observed, serving: int, wanted: Wanted, parts: Mapping[ConditionType, Verdict]
) -> Verdict | None:
    """Ready while pods serve, with what is wrong all the same; None: nobody gets to them."""
    router = parts.get(ConditionType.ROUTER_READY)
    if not _led_to(observed) or (router is not None and router.status != "True"):
        return None
    spec, workload = parts[ConditionType.SPEC_VALID], parts[ConditionType.WORKLOAD_READY]
    if spec.status == "False":
        count = f"{serving} of {wanted.replicas} pods serve"
        return Verdict("True", spec.reason, f"{count}, but {spec.message}")
    reason = Reason.READY if workload.reason is Reason.AVAILABLE else workload.reason
    return Verdict("True", reason, workload.message)


def _led_to(observed: Observed) -> bool:
    """Whether there are Services of ours, as far as the API server lets us have them."""
    for place in ("Service", PODS_SERVICE):
        refusal = observed.refusals.get(place)
        if refusal is not None and (
            refusal.reason is Reason.NAME_CONFLICT or place not in observed.children
        ):
            return False
    return True


def _blocked(parts: Mapping[ConditionType, Verdict], *, serves: bool) -> Verdict:
    """Ready while nobody is answered; True where the next request starts a pod."""
    counted = [kind for kind in _PARTS if not (serves and kind is ConditionType.WORKLOAD_READY)]
    ordered = [parts[kind] for kind in counted if kind in parts]
    for truth in ("False", "Unknown"):
        for part in ordered:
            if part.status == truth:
                return Verdict("False", part.reason, part.message)
    workload = parts[ConditionType.WORKLOAD_READY]
    return Verdict("True", workload.reason, workload.message)


def _since(before: Condition | None, verdict: Verdict, now: datetime) -> str:
    if before is not None and before.status == verdict.status:
        return before.last_transition_time
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
