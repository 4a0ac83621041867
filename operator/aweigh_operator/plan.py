"""One step towards what an InferenceService asks for. Pure: the same observation, the same plan.

A plan touches only objects that the InferenceService owns, applies a child only when it differs in
a field that we set, and does nothing at all while somebody else holds a child's name. It follows
from no report of a pod, and from the time only while a pod finds no node.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from aweigh_api import names
from aweigh_api.reasons import Reason
from aweigh_api.scaling import Scaling
from aweigh_operator import compare, desired, replicas, rollout
from aweigh_operator.desired import prefetch, template
from aweigh_operator.observe import Manifest, Observed, Refusal
from aweigh_operator.parse import parse
from aweigh_operator.replicas import Mark


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
class Plan:
    """What to do, and what the pods are measured by."""

    actions: tuple[Apply | Delete, ...] = ()
    marks: tuple[Mark, ...] = ()
    replicas: int = 0
    scaling: Scaling | None = None  # where the load decides how many there are
    template_hash: str | None = None  # of the pods that are wanted; None: the spec cannot be read
    fetching: bool = False  # new pods wait for what they shall serve
    conflicts: Mapping[str, Refusal] = field(default_factory=dict)  # by kind; then nothing is done
    held: Mapping[str, Refusal] = field(default_factory=dict)  # by kind; the others are seen to


def plan(observed: Observed, runtime_image: str) -> Plan:
    """What to do next for one service."""
    service = parse(observed.body)
    if isinstance(service, str):  # it changes nothing: what runs is measured by what ran
        return Plan(replicas=replicas.current(observed) or 0)
    pods = replicas.wanted(service, observed)
    marks = replicas.marks(observed, pods)
    # Pods go only once it is seen that each is said to be one of those that shall.
    goes = bool(marks) and pods < (replicas.current(observed) or 0)
    size = replicas.current(observed) or pods if goes else pods
    there, spec = observed.children.get("Deployment"), service.spec
    made_from = template.template_hash(service)
    downtime = spec.rollout.allow_downtime
    in_place = rollout.in_place(observed, made_from, pods, allow_downtime=downtime)
    wanted = desired.children(service, there, runtime_image, size, in_place=in_place)
    waits = _waits(observed, wanted, made_from)
    held = _held(observed, wanted)
    found = Plan(replicas=pods, template_hash=made_from, fetching=waits, held=held)
    if conflicts := _conflicts(observed, wanted):
        return replace(found, conflicts=conflicts)
    actions = tuple(_actions(observed, wanted, waits))
    return replace(found, actions=actions, marks=marks, scaling=spec.scaling)


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
    """What brings each child there; while new pods wait, what serves stays as it is.

    Pods come last: what leaves will be made anew, and without their NetworkPolicy, for example,
    they would serve everybody.
    """
    waits = waits or any(
        _leaves(child, observed.body)
        for kind, child in observed.children.items()
        if kind in wanted and kind != "Deployment"
    )
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


def _held(observed: Observed, wanted: Mapping[str, Manifest]) -> dict[str, Refusal]:
    """Children that are being deleted, and that somebody's finalizers keep."""
    return {
        kind: _hold(kind, child["metadata"])
        for kind, child in observed.children.items()
        if (kind in wanted or belongs(child, observed.body))
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
