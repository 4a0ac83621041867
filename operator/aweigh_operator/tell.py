"""What is told of an InferenceService: its status, and what of it is news. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from aweigh_api.quantity import to_bytes
from aweigh_api.reasons import ConditionType, Reason
from aweigh_api.status import Condition, ScalingChange, Status
from aweigh_operator import conditions, replicas, report, troubles, zero
from aweigh_operator.conditions import Wanted
from aweigh_operator.observe import Manifest, Observed
from aweigh_operator.parse import parse
from aweigh_operator.plan import Plan
from aweigh_operator.route import Route
from aweigh_operator.verdict import Verdict

POLL_LOADING_S = 2.0  # pods that start: progress, and failures that only time tells
POLL_SERVING_S = 20.0  # what a pod tells is in the status within half a minute
POLL_IDLE_S = 60.0  # where nobody has asked anything for minutes
POLL_CONFLICT_S = 15.0  # the object in our way is not watched, nor is the namespace
_QUIET = (
    Reason.VALID,
    Reason.LOADED,
    Reason.WAITING_FOR_PODS,
    Reason.AVAILABLE,
    Reason.WARM,
    Reason.COLD,
    Reason.NO_PROMPTS,
    Reason.DISABLED,
    Reason.STEADY,
    Reason.SETTLING,
    Reason.WAITING_FOR_REPORTS,
    Reason.LOAD_GREW,  # these three are told with the number
    Reason.LOAD_FELL,
    Reason.BOUNDS,
)


@dataclass(frozen=True, slots=True)
class Transition:
    """A condition that changed its reason: worth an event."""

    condition: ConditionType
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Told:
    """What to report, and when to look again without being told."""

    status: Manifest
    changed: bool  # the status is another than the one that is written
    transitions: tuple[Transition, ...]
    missing: int  # pods that are wanted and not ready
    clamped: str | None  # that prefixCache.size is more than there is, when that is news
    scaled: ScalingChange | None  # another number of pods is asked for, when that is news
    requeue_after_s: float


def tell(observed: Observed, planned: Plan, now: datetime) -> Told:
    """What there is to say of a service for which this is planned."""
    known = {**planned.conflicts, **planned.held, **observed.refusals}
    observed = replace(observed, refusals=known)
    wanted, invalid = _wanted(observed, planned)
    before = _status_before(observed.body)
    scaling = report.scaling(observed, wanted, now)
    found = conditions.verdicts(observed, wanted, invalid, scaling)
    generation = observed.body["metadata"].get("generation", 0)
    told = conditions.conditions(found, before, generation, now)
    status = report.status(observed, told, scaling).manifest()
    return Told(
        status=status,
        changed=_own_status(status) != _own_status(observed.body.get("status") or {}),
        transitions=_transitions(found, before),
        missing=max(0, wanted.replicas - sum(pod.ready for pod in observed.live_pods)),
        clamped=_clamped(observed, wanted, status),
        scaled=replicas.change(replicas.told_before(observed.body), scaling),
        requeue_after_s=_requeue_after_s(observed, wanted),
    )


def _wanted(observed: Observed, planned: Plan) -> tuple[Wanted, str | None]:
    """What the pods are measured by, and why the spec cannot be read."""
    service = parse(observed.body)
    if isinstance(service, str):
        return Wanted(planned.replicas, False, None), service
    wanted = Wanted(
        replicas=planned.replicas,
        suspended=service.spec.suspend,
        template_hash=planned.template_hash,
        spec=service.spec,
        fetching=planned.fetching,
        drift=planned.drift,
        route=planned.route,
        shown=zero.shown(observed, planned.template_hash, planned.replicas),
    )
    return wanted, None


def _transitions(
    found: Mapping[ConditionType, Verdict], before: list[Condition]
) -> tuple[Transition, ...]:
    known = {each.type: (each.status, each.reason) for each in before}
    return tuple(
        Transition(kind, verdict)
        for kind, verdict in found.items()
        if known.get(kind) != (verdict.status, verdict.reason) and _worth_telling(kind, found)
    )


def _worth_telling(kind: ConditionType, found: Mapping[ConditionType, Verdict]) -> bool:
    """Each cause once: Ready repeats the reason of another condition, unless all is well."""
    verdict, spec = found[kind], found[ConditionType.SPEC_VALID]
    if kind is ConditionType.READY:
        return verdict.reason is Reason.READY
    if kind is ConditionType.WORKLOAD_READY and verdict.reason is spec.reason:
        return False
    return verdict.reason not in _QUIET


def _requeue_after_s(observed: Observed, wanted: Wanted) -> float:
    pods = observed.live_pods
    settled = (
        not wanted.fetching
        and len(pods) == wanted.replicas
        and all(troubles.steady(pod, observed) for pod in pods)
        and _routers_settled(observed, wanted.route)
    )
    if observed.refusals:
        return POLL_CONFLICT_S
    if not settled:
        return POLL_LOADING_S
    poll_s = POLL_SERVING_S if observed.counts.any_prompts else POLL_IDLE_S
    due_s = wanted.route.due_s
    return poll_s if due_s is None else min(poll_s, due_s)


def _routers_settled(observed: Observed, route: Route) -> bool:
    live = observed.live_routers
    return len(live) == (route.routers or 0) and all(pod.ready for pod in live)


def _clamped(observed: Observed, wanted: Wanted, status: Manifest) -> str | None:
    size = None if wanted.spec is None else wanted.spec.prefix_cache.size
    there = status.get("prefixCache", {}).get("effectiveBytes")
    before = observed.body.get("status") or {}
    known = (before.get("observedGeneration"), before.get("prefixCache", {}).get("effectiveBytes"))
    if size is None or there is None or to_bytes(size) <= there:
        return None
    if known == (status["observedGeneration"], there):
        return None
    return (
        f"prefixCache.size is {size}, but a pod has {there} bytes for keys and values: it keeps "
        "at most those"
    )


def _status_before(body: Manifest) -> list[Condition]:
    status = body.get("status") or {}
    return [Condition.model_validate(each) for each in _own_conditions(status)]


def _own_status(status: Manifest) -> Manifest:
    """What of a status is ours: another may add conditions and fields."""
    fields = {field.alias for field in Status.model_fields.values()}
    ours = {field: value for field, value in status.items() if field in fields}
    return {**ours, "conditions": {each["type"]: each for each in _own_conditions(status)}}


def _own_conditions(status: Manifest) -> list[Manifest]:
    return [each for each in status.get("conditions", []) if each["type"] in set(ConditionType)]


def served(body: Manifest) -> bool:
    """Whether a pod served when the status was written."""
    told = condition(body.get("status") or {}, ConditionType.MODEL_READY)
    return bool(told["reason"] == Reason.LOADED)


def condition(status: Manifest, kind: ConditionType) -> Manifest:
    """One condition; of a status that has none of the kind, an empty one."""
    found = [each for each in status.get("conditions", []) if each["type"] == kind]
    return found[0] if found else {"status": "", "reason": "", "message": ""}
