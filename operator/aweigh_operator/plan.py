"""One step towards what an InferenceService asks for. Pure: the same observation, the same plan.

A plan touches only objects that the InferenceService owns, applies a child only when it differs in
a field that we set, and does nothing at all while somebody else holds a child's name. From what
pods tell it follows only by way of the decision how many there shall be and in which order they go;
from the time only while a pod finds no node or may crash again, or requests begin to come another
way.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from aweigh_api import names
from aweigh_api.reasons import ConditionType, Reason
from aweigh_api.scaling import Scaling
from aweigh_operator import compare, desired, drift, replicas, rollout, route, zero
from aweigh_operator.desired import Chosen, prefetch, secret
from aweigh_operator.observe import Manifest, Observed, Refusal
from aweigh_operator.parse import parse
from aweigh_operator.places import PLACES, WITH_PODS, kind_of
from aweigh_operator.replicas import Mark
from aweigh_operator.route import STRAIGHT, Route
from aweigh_operator.settings import Settings


@dataclass(frozen=True, slots=True)
class Apply:
    """Create a child, or bring it back to what it should be."""

    place: str
    manifest: Manifest
    creates: bool


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a child that is not wanted any more."""

    place: str
    uid: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, and what the pods are measured by."""

    actions: tuple[Apply | Delete, ...] = ()
    marks: tuple[Mark, ...] = ()
    replicas: int = 0
    route: Route = STRAIGHT  # by which requests come to the pods
    scaling: Scaling | None = None  # where the load decides how many there are
    template_hash: str | None = None  # of the pods that are wanted; None: the spec cannot be read
    fetching: bool = False  # new pods wait for what they shall serve
    drift: str | None = None  # what somebody has added to pods by hand
    secret: Manifest | None = None  # that pods need, but for its value
    conflicts: Mapping[str, Refusal] = field(default_factory=dict)  # by place; then nothing is done
    held: Mapping[str, Refusal] = field(default_factory=dict)  # by place; the others are seen to


def plan(observed: Observed, settings: Settings) -> Plan:
    """What to do next for one service."""
    service = parse(observed.body)
    if isinstance(service, str):  # it changes nothing: what runs is measured by what ran
        return Plan(replicas=replicas.current(observed) or 0)
    pods = replicas.wanted(service, observed)
    marks = replicas.marks(observed, pods)
    # Pods go only once it is seen that each is said to be one of those that shall.
    goes = bool(marks) and pods < (replicas.current(observed) or 0)
    size = replicas.current(observed) or pods if goes else pods
    made = desired.templates(service, observed.children, settings)
    made_from, downtime = made.pods.made_from, service.spec.rollout.allow_downtime
    chosen = Chosen(
        replicas=size,
        in_place=rollout.in_place(observed, made_from, pods, allow_downtime=downtime),
        route=route.route(service.spec, observed, made.routers.made_from),
        reason=_why_not_ready(observed.body),
        served=zero.note(observed, made_from, service.spec.scaling),
    )
    wanted = desired.children(service, made, settings, chosen)
    waits = _waits(observed, wanted, made_from)
    found = Plan(
        replicas=pods,
        route=chosen.route,
        template_hash=made_from,
        fetching=waits,
        drift=drift.told(observed.children, wanted),
        secret=secret.manifest(service),
        held=_held(observed, wanted),
    )
    if conflicts := _conflicts(observed, wanted):
        return replace(found, conflicts=conflicts)
    actions = tuple(_actions(observed, wanted, waits))
    return replace(found, actions=actions, marks=marks, scaling=service.spec.scaling)


def belongs(child: Manifest, body: Manifest) -> bool:
    """Whether this very InferenceService controls the child."""
    owner = _controller(child)
    return owner is not None and owner.get("uid") == body["metadata"]["uid"]


def _why_not_ready(body: Manifest) -> str | None:
    """The reason that the status gives, where it says that the service is not ready."""
    told = (body.get("status") or {}).get("conditions") or []
    ready = (each for each in told if each["type"] == ConditionType.READY)
    return next((each["reason"] for each in ready if each["status"] == "False"), None)


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
    """What brings each child there; while new pods wait, what serves stays as it is.

    Pods come last: what leaves will be made anew, and without their NetworkPolicy, for example,
    they would serve everybody.
    """
    leaves = any(
        _leaves(child, observed.body)
        for place, child in observed.children.items()
        if place in wanted and place not in WITH_PODS
    )
    later = {"Deployment"} if waits else set[str]()
    later |= set(WITH_PODS) if leaves else set()
    found = (_action(observed, place, wanted.get(place)) for place in PLACES if place not in later)
    return [action for action in found if action is not None]


def _action(observed: Observed, place: str, manifest: Manifest | None) -> Apply | Delete | None:
    child = observed.children.get(place)
    if child is None:
        return None if manifest is None else Apply(place, manifest, creates=True)
    if _leaves(child, observed.body):
        return None
    if manifest is None:
        ours = belongs(child, observed.body)
        return Delete(place, child["metadata"]["uid"]) if ours else None
    if place == "Job":  # it cannot be changed
        same = prefetch.same(child, manifest)
        return None if same else Delete(place, child["metadata"]["uid"])
    if compare.holds(child, manifest):
        return None
    return Apply(place, _only(child, manifest), creates=False)


def _only(child: Manifest, manifest: Manifest) -> Manifest:
    """The manifest for this very object: the API server refuses it for another of its name."""
    return {**manifest, "metadata": {**manifest["metadata"], "uid": child["metadata"]["uid"]}}


def _conflicts(observed: Observed, wanted: Mapping[str, Manifest]) -> dict[str, Refusal]:
    """Children whose names somebody else's objects bear."""
    found = {
        place: observed.children[place]
        for place in wanted
        if place in observed.children
        and not belongs(observed.children[place], observed.body)
        and not _leaves(observed.children[place], observed.body)
    }
    return {place: _conflict(kind_of(place), child) for place, child in found.items()}


def _conflict(kind: str, child: Manifest) -> Refusal:
    owner, name = _controller(child), child["metadata"]["name"]
    whose = f"belongs to {owner['kind']} {owner['name']}" if owner else "has no owner"
    remedy = "delete the InferenceService and apply it under another name"
    if owner is None:
        delete = f"kubectl delete {kind.lower()} {name} -n {child['metadata']['namespace']}"
        remedy = f"if nobody needs it, `{delete}`; else {remedy}"
    return Refusal(Reason.NAME_CONFLICT, f"{kind} {name} exists and {whose}: {remedy}")


def _held(observed: Observed, wanted: Mapping[str, Manifest]) -> dict[str, Refusal]:
    """Children that are being deleted, and that somebody's finalizers keep."""
    return {
        place: _hold(kind_of(place), child["metadata"])
        for place, child in observed.children.items()
        if (place in wanted or belongs(child, observed.body))
        and "deletionTimestamp" in child["metadata"]
        and child["metadata"].get("finalizers")
    }


def _hold(kind: str, metadata: Manifest) -> Refusal:
    name, finalizers = metadata["name"], ", ".join(metadata["finalizers"])
    message = (
        f"{kind} {name} was deleted at {metadata['deletionTimestamp']}, but its finalizers keep "
        f"it: {finalizers}. It can neither be changed nor made anew before it is gone: let whoever "
        f"set them take them away, or do it with `kubectl edit {kind.lower()} {name}`"
    )
    return Refusal(Reason.OBJECT_BEING_DELETED, message)


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
