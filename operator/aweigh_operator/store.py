"""What the watches have told of every object, the newest version. It asks nobody.

Of each object it keeps only what is read: children as compact text without what others write into
their status, pods as the few values that matter. So an event that changes nothing of that is no
news, and what the API server has answered to a write of ours is none when its watch tells it again.
"""

import json
import sys
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aweigh_api import names
from aweigh_operator.observe import Key, Manifest, Pod, key_of, key_of_pod, pod_of
from aweigh_operator.places import kind_of, places

POD = "Pod"
MAX_GONE = 1024  # deletions that are remembered, for answers that come late
_UNREAD = ("managedFields", "resourceVersion", "creationTimestamp", "selfLink")  # of metadata
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_TROUBLES = ("ReplicaFailure", "Progressing")  # conditions of a Deployment


class _Kept(NamedTuple):
    """One object."""

    uid: str
    version: int
    content: bytes | Pod


@dataclass(slots=True)
class _Service:
    """All that belongs to one InferenceService, or bears its name."""

    changed: int = 0  # grows with each news
    objects: dict[str, _Kept] = field(default_factory=dict)  # by place, pods apart
    pods: dict[str, _Kept] = field(default_factory=dict)  # by uid


class Store:
    """Objects by service."""

    def __init__(self) -> None:
        self._services: dict[Key, _Service] = {}
        self._changes = 0
        self._gone: OrderedDict[str, int] = OrderedDict()  # versions by uid

    def put(self, kind: str, body: Mapping[str, Any], *, listed: bool = False) -> list[Key]:
        """Keep this version, unless a newer one is known; the services to which it is news.

        There are two when a pod's label says that it is another service's now, and when a name has
        two places. What was `listed` counts though a newer version is known: an API server whose
        data were restored from a backup numbers anew, and the watch that follows tells what came
        since.
        """
        metadata = body["metadata"]
        uid, version, found = metadata["uid"], int(metadata["resourceVersion"]), _found(kind, body)
        news = self._left(uid, found[0][0], version, listed) if kind == POD else []
        content: bytes | Pod | None = None
        for key, place in found:
            service = self._services.setdefault(key, _Service())
            kept = service.pods if kind == POD else service.objects
            before = kept.get(place)
            # What is listed is there, though it was gone: a listing that is late is put right by
            # the watch that follows.
            gone = 0 if listed else self._gone.get(uid, 0)
            known = before.version if before is not None else gone
            if known >= version and not (listed and known > version):
                continue
            if content is None:
                content = pod_of(body) if kind == POD else _content(kind, body)
            kept[place] = _Kept(uid, version, content)
            if before is None or (before.uid, before.content) != (uid, content):
                self._touch(service)
                news.append(key)
        return news

    def _left(self, uid: str, key: Key, version: int, listed: bool) -> list[Key]:
        """Take a pod from the service that it is no longer of; that one."""
        if key in self._services and uid in self._services[key].pods:
            return []
        for other, service in self._services.items():
            if uid in service.pods and (listed or service.pods[uid].version < version):
                del service.pods[uid]
                self._touch(service)
                self._forget_if_empty(other)
                return [other]
        return []

    def _forget_if_empty(self, key: Key) -> None:
        service = self._services.get(key)
        if service is not None and not service.objects and not service.pods:
            del self._services[key]

    def drop(self, kind: str, key: Key, uid: str, version: int = 0) -> None:
        """Forget this very object of a service: it is gone, or bears our label no longer."""
        service = self._services.get(key, _Service())
        kept = service.pods if kind == POD else service.objects
        for place in [each for each in kept if kept[each].uid == uid]:
            version = max(version, kept.pop(place).version)
            self._touch(service)
        self._gone[uid] = version
        if len(self._gone) > MAX_GONE:
            self._gone.popitem(last=False)
        self._forget_if_empty(key)

    def changed(self, key: Key) -> int:
        """A number that is another after each news of this service."""
        service = self._services.get(key)
        return 0 if service is None else service.changed

    def body(self, key: Key) -> Manifest | None:
        """The InferenceService, unless it is gone."""
        return self.children(key, (names.KIND,)).get(names.KIND)

    def children(self, key: Key, wanted: Iterable[str]) -> dict[str, Manifest]:
        """The labelled objects with these places, whoever owns them."""
        found = self._services.get(key, _Service()).objects
        texts = {place: found[place].content for place in wanted if place in found}
        return {place: json.loads(each) for place, each in texts.items() if isinstance(each, bytes)}

    def pods(self, key: Key) -> tuple[Pod, ...]:
        """The pods that serve, oldest first."""
        return tuple(pod for pod in self._every_pod(key) if not (pod.fetches or pod.routes))

    def routers(self, key: Key) -> tuple[Pod, ...]:
        """The router's pods, oldest first."""
        return tuple(pod for pod in self._every_pod(key) if pod.routes)

    def fetcher(self, key: Key) -> Pod | None:
        """The newest pod that fetches models, unless it has ended."""
        found = [pod for pod in self._every_pod(key) if pod.fetches and pod.live]
        return found[-1] if found else None

    def uids(self, kind: str) -> dict[str, list[Key]]:
        """All objects of a kind, each with the services that it may belong to."""
        found: dict[str, list[Key]] = {}
        for key, service in self._services.items():
            kept = service.pods if kind == POD else service.objects
            for place, each in kept.items():
                if kind in (POD, kind_of(place)):
                    found.setdefault(each.uid, []).append(key)
        return found

    def _every_pod(self, key: Key) -> list[Pod]:
        found = self._services.get(key, _Service()).pods.values()
        pods = [each.content for each in found if isinstance(each.content, Pod)]
        return sorted(pods, key=lambda pod: (pod.created_at, pod.name))

    def _touch(self, service: _Service) -> None:
        self._changes += 1
        service.changed = self._changes


def services_of(kind: str, body: Mapping[str, Any]) -> list[Key]:
    """The services that an object may belong to."""
    return [key for key, _ in _found(kind, body)]


def _found(kind: str, body: Mapping[str, Any]) -> list[tuple[Key, str]]:
    """Each of them, with the place that the object has there: of a pod its uid."""
    if kind == POD:
        return [(_interned(key_of_pod(body)), body["metadata"]["uid"])]
    key = _interned(key_of(body))
    if kind == names.KIND:
        return [(key, kind)]
    found = places(kind, key.name) or [(key.name, kind)]  # a place that no child has
    return [(Key(key.namespace, sys.intern(name)), sys.intern(place)) for name, place in found]


def _interned(key: Key) -> Key:
    return Key(sys.intern(key.namespace), sys.intern(key.name))


def _content(kind: str, body: Mapping[str, Any]) -> bytes:
    """What is read of an object."""
    metadata = {key: value for key, value in body["metadata"].items() if key not in _UNREAD}
    annotations = dict(metadata.get("annotations") or {})
    if annotations.pop(_LAST_APPLIED, None) is not None:
        metadata["annotations"] = annotations
    kept = {**body, "metadata": metadata}
    status = kept.pop("status", None)
    if kind != names.KIND:
        metadata.pop("generation", None)
        status = _status(kind, status or {})
    if status:
        kept["status"] = status
    # Listings and watches differ in the order of fields.
    return json.dumps(kept, separators=(",", ":"), default=dict, sort_keys=True).encode()


def _status(kind: str, status: Manifest) -> Manifest:
    conditions = status.get("conditions") or []
    if kind == "Deployment":
        conditions = [each for each in conditions if _is_trouble(each)]
    elif kind != "Job":
        return {}
    return {"conditions": conditions} if conditions else {}


def _is_trouble(condition: Mapping[str, Any]) -> bool:
    """What goes well is told by the pods."""
    if condition["type"] not in _TROUBLES:
        return False
    return condition["type"] == "ReplicaFailure" or (
        condition.get("reason") == "ProgressDeadlineExceeded"
    )
