"""One step towards what an InferenceService asks for. Pure: the same observation, the same plan.

A plan touches only objects that the InferenceService owns, applies a child only when it differs in
a field that we set, and does nothing at all while somebody else holds a child's name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from aweigh_api import names
from aweigh_api.quantity import to_bytes
from aweigh_api.reasons import ConditionType, Reason
from aweigh_api.scaling import Scaling
from aweigh_api.status import Condition, ScalingChange, Status
from aweigh_operator import compare, conditions, desired, replicas, report, rollout, troubles
from aweigh_operator.conditions import Wanted
from aweigh_operator.desired import prefetch, template
from aweigh_operator.observe import Manifest, Observed, Refusal
from aweigh_operator.parse import parse
from aweigh_operator.replicas import Mark
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
class Apply:
    """Create a child, or bring it back to what it should be."""

    manifest: Manifest
    creates: bool

    @property
    def kind(self) -> str:
        """Kind of the child."""
        return str(self.manifest["kind"])


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a child that is not wanted any more."""

    kind: str
    uid: str


@dataclass(frozen=True, slots=True)
class Transition:
    """A condition that changed its reason: worth an event."""

    condition: ConditionType
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, what to report, and when to look again without being told."""

    actions: tuple[Apply | Delete, ...]
    marks: tuple[Mark, ...]
    replicas: int
    scaling: Scaling | None  # where the load decides how many there are
    status: Manifest
    status_changed: bool
    transitions: tuple[Transition, ...]
    clamped: str | None  # that prefixCache.size is more than there is, when that is news
    scaled: ScalingChange | None  # another number of pods is asked for, when that is news
    requeue_after_s: float


def plan(observed: Observed, runtime_image: str, now: datetime) -> Plan:
    """What to do next for one service."""
    service = parse(observed.body)
    if isinstance(service, str):
        return _report(observed, _wanted_by_deployment(observed), service, now)
    pods = replicas.wanted(service, observed)
    marks = replicas.marks(observed, pods)
    # Pods go only once it is seen that each is said to be one of those that shall.
    goes = bool(marks) and pods < (replicas.current(observed) or 0)
    size = replicas.current(observed) or pods if goes else pods
    there, spec = observed.children.get("Deployment"), service.spec
    made_from = template.template_hash(service)
    downtime = spec.rollout.allow_downtime
    in_place = rollout.in_place(observed, made_from, pods, now, allow_downtime=downtime)
    wanted = desired.children(service, there, runtime_image, size, in_place=in_place)
    conflicts = _conflicts(observed, wanted)
    seen = replace(observed, refusals={**conflicts, **observed.refusals})
    waits = _waits(observed, wanted, made_from)
    aim = Wanted(pods, spec.suspend, made_from, spec, fetching=waits)
    told = _report(seen, aim, None, now)
    if conflicts:
        return told
    return replace(
        told,
        actions=tuple(_actions(observed, wanted, waits)),
        marks=marks,
        scaling=spec.scaling,
    )


def belongs(child: Manifest, body: Manifest) -> bool:
    """Whether this very InferenceService controls the child."""
    owner = _controller(child)
    return owner is not None and owner.get("uid") == body["metadata"]["uid"]


def _waits(observed: Observed, wanted: Mapping[str, Manifest], made_from: str) -> bool:
    """Whether new pods have to wait until a Job has fetched what they shall serve."""
    job, there = wanted.get("Job"), observed.children.get("Deployment")
    if job is None or prefetch.done(observed.children.get("Job"), job):
        return False
    annotations = (there or {"metadata": {}})["metadata"].get("annotations") or {}
    return annotations.get(names.TEMPLATE_HASH) != made_from


def _actions(
    observed: Observed, wanted: Mapping[str, Manifest], waits: bool
) -> list[Apply | Delete]:
    """What brings each child there; while new pods wait, what serves stays as it is."""
    kinds = [kind for kind in desired.KINDS if not (waits and kind == "Deployment")]
    found = (_action(observed, kind, wanted.get(kind)) for kind in kinds)
    return [action for action in found if action is not None]


def _action(observed: Observed, kind: str, manifest: Manifest | None) -> Apply | Delete | None:
    child = observed.children.get(kind)
    if child is None:
        return None if manifest is None else Apply(manifest, creates=True)
    if _leaves(child, observed.body):
        return None
    if manifest is None:
        ours = belongs(child, observed.body)
        return Delete(kind, child["metadata"]["uid"]) if ours else None
    if kind == "Job":  # it cannot be changed
        same = prefetch.same(child, manifest)
        return None if same else Delete(kind, child["metadata"]["uid"])
    return None if compare.holds(child, manifest) else Apply(_only(child, manifest), creates=False)


def _only(child: Manifest, manifest: Manifest) -> Manifest:
    """The manifest for this very object: the API server refuses it for another of its name."""
    return {**manifest, "metadata": {**manifest["metadata"], "uid": child["metadata"]["uid"]}}


def _conflicts(observed: Observed, wanted: Mapping[str, Manifest]) -> dict[str, Refusal]:
    """Children whose names somebody else's objects bear."""
    found = {
        kind: observed.children[kind]
        for kind in wanted
        if kind in observed.children
        and not belongs(observed.children[kind], observed.body)
        and not _leaves(observed.children[kind], observed.body)
    }
    return {kind: _conflict(kind, child) for kind, child in found.items()}


def _conflict(kind: str, child: Manifest) -> Refusal:
    owner = _controller(child)
    whose = f"belongs to {owner['kind']} {owner['name']}" if owner else "has no owner"
    name = child["metadata"]["name"]
    message = (
        f"{kind} {name} exists and {whose}: rename the InferenceService, or delete that {kind}"
    )
    return Refusal(Reason.NAME_CONFLICT, message)


def _leaves(child: Manifest, body: Manifest) -> bool:
    """Being deleted, or left over from an InferenceService of this name that is gone."""
    if "deletionTimestamp" in child["metadata"]:
        return True
    owner = _controller(child)
    return (
        owner is not None
        and owner.get("kind") == names.KIND
        and owner.get("name") == body["metadata"]["name"]
        and not belongs(child, body)
    )


def _controller(child: Manifest) -> Manifest | None:
    owners = child["metadata"].get("ownerReferences", [])
    return next((owner for owner in owners if owner.get("controller")), None)


def _report(observed: Observed, wanted: Wanted, invalid: str | None, now: datetime) -> Plan:
    """The plan that does nothing but tell."""
    before = _status_before(observed.body)
    scaling = report.scaling(observed, wanted, now)
    found = conditions.verdicts(observed, wanted, invalid, scaling, now)
    generation = observed.body["metadata"].get("generation", 0)
    told = conditions.conditions(found, before, generation, now)
    status = report.status(observed, told, scaling).manifest()
    return Plan(
        actions=(),
        marks=(),
        replicas=wanted.replicas,
        scaling=None,
        status=status,
        status_changed=_own_status(status) != _own_status(observed.body.get("status") or {}),
        transitions=_transitions(found, before),
        clamped=_clamped(observed, wanted, status),
        scaled=replicas.change(replicas.told_before(observed.body), scaling),
        requeue_after_s=_requeue_after_s(observed, wanted, now),
    )


def _transitions(
    found: Mapping[ConditionType, Verdict], before: list[Condition]
) -> tuple[Transition, ...]:
    known = {each.type: (each.status, each.reason) for each in before}
    return tuple(
        Transition(kind, verdict)
        for kind, verdict in found.items()
        if known.get(kind) != (verdict.status, verdict.reason) and _worth_telling(kind, verdict)
    )


def _worth_telling(kind: ConditionType, verdict: Verdict) -> bool:
    """Each cause once: Ready repeats the reason of another condition, unless all is well."""
    if kind is ConditionType.READY:
        return verdict.reason is Reason.READY
    return verdict.reason not in _QUIET


def _requeue_after_s(observed: Observed, wanted: Wanted, now: datetime) -> float:
    pods = observed.live_pods
    settled = (
        not wanted.fetching
        and len(pods) == wanted.replicas
        and all(troubles.steady(pod, now) for pod in pods)
    )
    if observed.refusals:
        return POLL_CONFLICT_S
    if not settled:
        return POLL_LOADING_S
    return POLL_SERVING_S if observed.counts.any_prompts else POLL_IDLE_S


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


def _wanted_by_deployment(observed: Observed) -> Wanted:
    """A spec that cannot be read changes nothing: what runs is measured by what ran."""
    deployment = observed.children.get("Deployment", {})
    return Wanted(deployment.get("spec", {}).get("replicas", 0), False, None)


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
