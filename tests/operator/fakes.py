"""A cluster in memory for the operator's tests: server-side apply, defaults, lagging watches."""

import asyncio
import copy
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from aweigh_api import names
from aweigh_api.router_state import RouterState
from aweigh_api.state import State
from aweigh_operator import events
from aweigh_operator.cluster import ApiError
from aweigh_operator.compare import ATOMIC, MERGED
from aweigh_operator.metrics import Metrics
from aweigh_operator.observe import Autoscaler, Key, Manifest, Pod, Waiting
from aweigh_operator.places import PLACES, kind_of, name_at
from aweigh_operator.readers import Readers
from aweigh_operator.reconcile import Reconciler
from aweigh_operator.replicas import Mark
from aweigh_operator.resources import RESOURCES
from aweigh_operator.settings import Settings
from aweigh_operator.store import Store
from aweigh_operator.sweep import sweep

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
NOW_TEXT = "2026-11-23T12:00:00Z"
IMAGE = "registry.example/aweigh-runtime:1"
ROUTER_IMAGE = "registry.example/aweigh-router:1"
SETTINGS = Settings(runtime_image=IMAGE, router_image=ROUTER_IMAGE)
KEY = Key("team", "chat")


def at(place: str, key: Key = KEY) -> tuple[str, Key]:
    """Kind and key of a service's child."""
    return kind_of(place), Key(key.namespace, name_at(place, key.name))


def service(spec: Mapping[str, Any] | None = None, **metadata: Any) -> Manifest:
    """An InferenceService as the API server stores it."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {
            "name": KEY.name,
            "namespace": KEY.namespace,
            "uid": "uid-of-chat",
            "generation": 1,
            "resourceVersion": "1",
            **metadata,
        },
        "spec": {"model": {"uri": "builtin://helmsman-8m"}, **(spec or {})},
    }


def pod(name: str = "chat-1", **status: Any) -> Manifest:
    """A pod with this status; `ready`, `running`, `restarts`, `waiting`, `last` are shorthand."""
    ready, hash_ = status.pop("ready", False), status.pop("hash", "")
    state: Manifest = {}
    if status.pop("running", ready):
        state = {"running": {"startedAt": NOW_TEXT}}
    elif waiting := status.pop("waiting", None):
        state = {"waiting": waiting}
    last = status.pop("last", None)
    container = {
        "name": names.CONTAINER,
        "state": state,
        "lastState": {"terminated": last} if last else {},
        "restartCount": status.pop("restarts", 0),
    }
    conditions = [
        {"type": "Ready", "status": "True" if ready else "False"},
        status.pop("scheduled", {"type": "PodScheduled", "status": "True"}),
    ]
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": KEY.namespace,
            "uid": f"uid-of-{name}",
            "creationTimestamp": NOW_TEXT,
            "labels": names.labels(KEY.name),
            "annotations": {names.TEMPLATE_HASH: hash_},
        },
        "spec": {"containers": [{"name": names.CONTAINER, "image": IMAGE}]},
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.7",
            "conditions": conditions,
            "containerStatuses": [container],
            **status,
        },
    }


def _made(body: Manifest, template: Manifest) -> Manifest:
    """A pod from this template."""
    (container,) = template["spec"]["containers"]
    body["status"]["containerStatuses"][0]["name"] = container["name"]
    metadata = copy.deepcopy(template["metadata"])
    body["metadata"] |= {field: each for field, each in metadata.items() if each is not None}
    return {**body, "spec": copy.deepcopy(template["spec"])}


def _narrow_peers(policy: Manifest) -> None:
    policy["spec"]["ingress"][1]["from"][0]["namespaceSelector"] = {"matchLabels": {"a": "b"}}


def _forge_record(deployment: Manifest) -> None:
    annotations = deployment["metadata"]["annotations"]
    annotations[names.TEMPLATE] = annotations[names.TEMPLATE].replace(IMAGE, "evil")


def _more_rights(role: Manifest) -> None:
    role["rules"] = [
        *role["rules"],
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
    ]


# What somebody may add by hand inside of what we set, by place.
NARROWINGS: tuple[tuple[str, Callable[[Manifest], None]], ...] = (
    ("Service", lambda body: body["spec"]["selector"].update(added="x")),
    ("NetworkPolicy", lambda body: body["spec"]["podSelector"]["matchLabels"].update(added="x")),
    ("NetworkPolicy", lambda body: body["spec"]["ingress"].append({})),
    ("NetworkPolicy", lambda body: body["spec"].update(egress=[{}])),
    ("NetworkPolicy", _narrow_peers),
    ("PodDisruptionBudget", lambda body: body["spec"]["selector"]["matchLabels"].update(b="x")),
    ("Deployment", _forge_record),
    ("Role-router", _more_rights),
    ("Service-pods", lambda body: body["spec"]["selector"].update(added="x")),
)


class FakeCluster:
    """Objects, written as the API server writes them: defaults added, empty values dropped."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, Key], Manifest] = {}
        self.applied: dict[tuple[str, Key], Manifest] = {}
        self.events: list[Manifest] = []
        self.repeated: list[tuple[str, Manifest]] = []
        self.writes = 0  # that changed something
        self.deleted: list[tuple[str, str]] = []
        self.jobs_end = True  # at once, and well
        self.refuse: Callable[[Manifest], ApiError | None] = lambda _: None
        self.lose_status = 0  # writes of a status that are answered 404
        self.stuck_pods: dict[str, Waiting] = {}
        self.marked: list[Mark] = []
        self.refuse_marks: ApiError | None = None
        self.secrets: dict[str, Manifest] = {}
        self.rivals: list[Autoscaler] = []
        self.asked_for_autoscalers = 0
        self.refuse_autoscalers: ApiError | None = None
        self._versions = itertools.count(100)

    def put(self, manifest: Manifest) -> Manifest:
        """An object that somebody else wrote."""
        key = Key(manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        version = next(self._versions)
        metadata = {"uid": f"uid-{version}", "resourceVersion": str(version)}
        stored = {**manifest, "metadata": {**metadata, **manifest["metadata"]}}
        stored["metadata"]["resourceVersion"] = str(version)
        self.objects[manifest["kind"], key] = stored
        return stored

    def edit(self, place: str, change: Callable[[Manifest], None], key: Key = KEY) -> None:
        """Change an object by hand."""
        edited = copy.deepcopy(self.objects[at(place, key)])
        change(edited)
        self.put(edited)

    async def read(self, kind: str, key: Key) -> Manifest | None:
        return copy.deepcopy(self.objects.get((kind, key)))

    async def uids(self, kind: str, namespace: str | None) -> set[str]:
        return {
            each["metadata"]["uid"]
            for (of, at), each in self.objects.items()
            if of == kind and namespace in (None, at.namespace)
        }

    async def stuck(self, namespace: str, pod: str) -> Waiting | None:
        return self.stuck_pods.get(pod)

    async def apply(self, manifest: Manifest, *, force: bool = True) -> Manifest:
        if error := self.refuse(manifest):
            raise error
        kind, metadata = manifest["kind"], manifest["metadata"]
        at = kind, Key(metadata["namespace"], metadata["name"])
        if kind == "RoleBinding":
            role = manifest["roleRef"]["name"]
            if ("Role", Key(metadata["namespace"], role)) not in self.objects:
                raise ApiError(f"apply {kind}", 404, f'roles "{role}" not found', "roles")
        await asyncio.sleep(0)  # what is asked at the same time is not there yet
        theirs = self.objects.get(at) if at not in self.applied else None
        if theirs is not None and not force and _clash(theirs, manifest):
            raise ApiError(f"apply {kind}", 409, "Apply failed with 1 conflict")
        self._store(kind, manifest)
        return copy.deepcopy(self.objects[at])

    async def delete(self, kind: str, key: Key, uid: str) -> None:
        found = self.objects.get((kind, key))
        if found is not None and found["metadata"]["uid"] == uid:
            self.deleted.append((kind, uid))
            self.remove(kind, key)

    def run_pods(self) -> None:
        """Each Deployment has its pods, which serve, and no others, as its controller would."""
        there = {at for at in self.objects if at[0] == "Pod"}
        for at in there:
            del self.objects[at]
        for (kind, key), body in list(self.objects.items()):
            if kind == "Deployment":
                template, count = body["spec"]["template"], body["spec"]["replicas"]
                for number in range(count):
                    self.put(_made(pod(f"{key.name}-{number}", ready=True), template))

    def remove(self, place: str, key: Key = KEY) -> None:
        """Take an object away."""
        self.objects.pop(at(place, key), None)
        self.applied.pop(at(place, key), None)

    async def mark(self, namespace: str, mark: Mark) -> None:
        if self.refuse_marks is not None:
            raise self.refuse_marks
        found = self.objects.get(("Pod", Key(namespace, mark.pod)))
        if found is not None and found["metadata"]["uid"] == mark.uid:
            annotations = dict(found["metadata"]["annotations"])
            annotations.pop(names.DELETION_COST, None)
            if mark.cost is not None:
                annotations[names.DELETION_COST] = str(mark.cost)
            self.marked.append(mark)
            self.put({**found, "metadata": {**found["metadata"], "annotations": annotations}})

    async def create_secret(self, secret: Manifest) -> bool:
        if error := self.refuse(secret):
            raise error
        name = secret["metadata"]["name"]
        return self.secrets.setdefault(name, secret) is secret

    async def autoscalers(self, namespace: str) -> list[Autoscaler]:
        self.asked_for_autoscalers += 1
        if self.refuse_autoscalers is not None:
            raise self.refuse_autoscalers
        return list(self.rivals)

    async def write_status(self, body: Manifest, status: Manifest) -> Manifest | None:
        key = Key(body["metadata"]["namespace"], body["metadata"]["name"])
        found = self.objects.get((names.KIND, key))
        if found is None or found["metadata"]["uid"] != body["metadata"]["uid"]:
            return None
        if self.lose_status:
            self.lose_status -= 1
            return None
        if found.get("status") != status:
            self.writes += 1
            self.put({**found, "status": copy.deepcopy(status)})
        return copy.deepcopy(self.objects[names.KIND, key])

    async def create_event(self, event: Manifest) -> None:
        self.events.append(event)

    async def repeat_event(self, namespace: str, name: str, series: Manifest) -> bool:
        if name not in [event["metadata"]["name"] for event in self.events]:
            return False
        self.repeated.append((name, series))
        return True

    def _store(self, kind: str, manifest: Manifest) -> None:
        metadata = manifest["metadata"]
        key = Key(metadata["namespace"], metadata["name"])
        found = self.objects.get((kind, key), {})
        if "uid" in metadata and metadata["uid"] != found.get("metadata", {}).get("uid"):
            raise ApiError(f"apply {kind}", 409, "the object has been replaced")
        kept = _without(found, self.applied.get((kind, key), {}), manifest)
        merged = _merged(_defaults(kind), _as_stored(_merged(kept, manifest)))
        if kind == "Deployment":
            _fill_in(merged["spec"]["template"])
        if kind == "Job" and self.jobs_end:
            merged["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
        self.applied[kind, key] = copy.deepcopy(manifest)
        if merged != found:
            self.writes += 1
            self.put(merged)


class Clock:
    """The reconciler's clocks: one that passes when it is told to, and one that also jumps."""

    def __init__(self) -> None:
        self.now_s = 5000.0
        self.wrong_s = 0.0  # by how much the time of day is ahead of the API server's

    def monotonic(self) -> float:
        return self.now_s

    def now(self, zone: tzinfo) -> datetime:
        """The time of day: as it is in the objects when the clock begins."""
        return (NOW + timedelta(seconds=self.now_s - 5000.0 + self.wrong_s)).astimezone(zone)


class Watch:
    """Tells a store of what there is when `catch_up` is called."""

    def __init__(self, cluster: FakeCluster, store: Store) -> None:
        self.cluster = cluster
        self.store = store
        self.catch_up()

    def catch_up(self) -> None:
        """See everything with our label as it is now, and that all else is gone."""
        there = set()
        for (kind, _), each in self.cluster.objects.items():
            labels = each["metadata"].get("labels", {})
            if kind == names.KIND or labels.get(names.LABEL_MANAGED_BY) == names.MANAGED_BY:
                there.add(each["metadata"]["uid"])
                self.store.put(kind, each)
        for kind in RESOURCES:
            for uid, keys in self.store.uids(kind).items():
                for key in keys if uid not in there else ():
                    self.store.drop(kind, key, uid)


class FakeReports:
    """Reports of pods, by uid."""

    def __init__(self) -> None:
        self.states: dict[str, State] = {}
        self.asked: Callable[[], None] = lambda: None

    async def read(self, pods: Iterable[Pod], fresh_s: float | None = None) -> dict[str, State]:
        self.asked()
        return {pod.uid: self.states[pod.uid] for pod in pods if pod.uid in self.states}


class FakeRouters:
    """Reports of routers, by uid, and to whom the operator listens."""

    def __init__(self) -> None:
        self.states: dict[str, RouterState] = {}
        self.heard: set[str] = set()

    async def read(self, routers: Iterable[Pod], fresh_s: float | None) -> dict[str, RouterState]:
        return {pod.uid: self.states[pod.uid] for pod in routers if pod.uid in self.states}

    def listen(self, key: Key, routers: Iterable[Pod]) -> None:
        self.heard = {pod.uid for pod in routers}

    def forget(self) -> None:
        self.heard = set()


class Operator:
    """A whole operator around a FakeCluster, without kopf and queue."""

    def __init__(
        self,
        cluster: FakeCluster,
        image: str = IMAGE,
        resync_seconds: float = 300,
        settings: Settings = SETTINGS,
    ) -> None:
        self.cluster = cluster
        self.store = Store()
        self.watch = Watch(cluster, self.store)
        self.reports = FakeReports()
        self.routers = FakeRouters()
        self.metrics = Metrics()
        settings = replace(settings, runtime_image=image, resync_seconds=resync_seconds)
        recorder = events.Recorder(cluster, "test", self.metrics.told)
        self.reconciler = Reconciler(
            self.store,
            cluster,
            Readers(self.reports, self.routers),
            recorder,
            self.metrics,
            settings,
        )

    async def reconcile(self, catch_up: bool = True) -> float | None:
        """One step."""
        if catch_up:
            self.watch.catch_up()
        return await self.reconciler.reconcile(KEY)

    async def sweep(self) -> None:
        """Look for what is gone though the watch has not told."""
        await sweep(self.cluster, self.store, (), lambda _: None)

    async def settle(self) -> None:
        """Steps until nothing is written any more."""
        for _ in range(10):
            before = self.cluster.writes, len(self.cluster.deleted)
            await self.reconcile()
            if (self.cluster.writes, len(self.cluster.deleted)) == before:
                return
        raise AssertionError("ten steps did not settle the service")

    def status(self) -> Manifest:
        """The status as written."""
        status: Manifest = self.cluster.objects[names.KIND, KEY]["status"]
        return status

    def condition(self, kind: str) -> tuple[str, str, str]:
        """Status, reason and message of one condition."""
        found = {each["type"]: each for each in self.status()["conditions"]}[kind]
        return found["status"], found["reason"], found["message"]

    def times_told(self, reason: str) -> int:
        """How often an event was written that has this reason, repetitions included."""
        events = [each for each in self.cluster.events if each["reason"] == reason]
        written = {each["metadata"]["name"] for each in events}
        return len(events) + sum(name in written for name, _ in self.cluster.repeated)

    def children(self) -> dict[str, Manifest]:
        """The children that are there, without what differs from run to run."""
        found = {
            place: copy.deepcopy(self.cluster.objects[at(place)])
            for place in PLACES
            if at(place) in self.cluster.objects
        }
        for child in found.values():
            child["metadata"].pop("uid")
            child["metadata"].pop("resourceVersion")
        return found


def _defaults(kind: str) -> Manifest:
    if kind == "Service":
        return {"spec": {"clusterIP": "10.96.0.9", "sessionAffinity": "None"}}
    if kind == "Deployment":
        return {"spec": {"minReadySeconds": 0}, "status": {}}
    return {}


def _fill_in(template: Manifest) -> None:
    """What the API server fills in where a pod template leaves it out."""
    template["metadata"]["creationTimestamp"] = None
    pods = template["spec"]
    template["spec"] = pods = {
        "dnsPolicy": "ClusterFirst",
        "restartPolicy": "Always",
        "schedulerName": "default-scheduler",
        "serviceAccount": pods["serviceAccountName"],
        **pods,
    }
    pods["volumes"] = [
        {**each, "secret": {"defaultMode": 420, **each["secret"]}} if "secret" in each else each
        for each in pods["volumes"]
    ]
    for container in pods["containers"]:
        container.setdefault("resources", {})
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe in container:
                container[probe] = {"successThreshold": 1, **container[probe]}


def _as_stored(value: Any) -> Any:
    """Quantities rewritten and empty values dropped, as the API server does."""
    if isinstance(value, dict):
        stored = {name: _as_stored(each) for name, each in value.items() if each not in ("", [])}
        for part in ("limits", "requests"):
            if part in stored:
                stored[part] = {name: _quantity(each) for name, each in stored[part].items()}
        return stored
    return [_as_stored(each) for each in value] if isinstance(value, list) else value


def _quantity(value: Any) -> str:
    text = str(value)
    return text.removesuffix("000m") if text.endswith("000m") else text


def _merged(one: Any, other: Any, field: str = "") -> Any:
    """One, over which the other is applied; a list of named entries keeps those of others."""
    if isinstance(one, dict) and isinstance(other, dict):
        both = {
            name: _merged(one[name], other[name], name)
            for name in one
            if name in other and name not in ATOMIC
        }
        return {**one, **other, **both}
    if field in MERGED and isinstance(one, list):
        before, after = _by_name(one, field), _by_name(other, field)
        both = {name: _merged(before.get(name, {}), each) for name, each in after.items()}
        return [*both.values(), *(each for name, each in before.items() if name not in both)]
    return other


def _by_name(entries: Any, field: str) -> Manifest:
    return {each[MERGED[field]]: each for each in entries or []}


def _clash(found: Any, applied: Any) -> bool:
    """Whether two set the same field to different values."""
    if isinstance(found, dict) and isinstance(applied, dict):
        return any(_clash(found[name], applied[name]) for name in found.keys() & applied.keys())
    return bool(found != applied)


def _without(found: Any, applied: Any, manifest: Any, field: str = "") -> Any:
    """What stays of an object when the fields that are no longer applied are taken away."""
    if field in MERGED and isinstance(found, list):
        ours, wanted = _by_name(applied, field), _by_name(manifest, field)
        return list(_without(_by_name(found, field), ours, wanted).values())
    if not isinstance(found, dict) or not isinstance(applied, dict):
        return found
    wanted = manifest if isinstance(manifest, dict) else {}
    return {
        name: _without(value, applied.get(name), wanted.get(name), name)
        for name, value in found.items()
        if name not in applied or name in wanted
    }
