"""Kopf wiring: an object goes into the store, and what is news as a key into the queue.

Kopf watches and never writes: no handler here needs a finalizer, an annotation or an event.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import kopf

from aweigh_api import names
from aweigh_operator.observe import Key, key_of, key_of_pod
from aweigh_operator.store import POD, Store
from aweigh_operator.workqueue import WorkQueue

SERVICES = (names.GROUP, names.VERSION, names.PLURAL)
CHILDREN = {
    "Deployment": ("apps", "v1", "deployments"),
    "Service": ("", "v1", "services"),
    "ServiceAccount": ("", "v1", "serviceaccounts"),
    "NetworkPolicy": ("networking.k8s.io", "v1", "networkpolicies"),
    "PodDisruptionBudget": ("policy", "v1", "poddisruptionbudgets"),
    "Job": ("batch", "v1", "jobs"),
}
PODS = ("", "v1", "pods")
SOON_S = 0.1  # what children do in this time is looked at together
OURS = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"


def registry(
    queue: WorkQueue[Key],
    store: Store,
    login: Callable[[], Awaitable[kopf.ConnectionInfo]],
) -> kopf.OperatorRegistry:
    """All handlers: `store` takes the objects, `queue` the keys."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    async def connect(**_: Any) -> kopf.ConnectionInfo:
        return await login()

    for kind, resource in {names.KIND: SERVICES, **CHILDREN, POD: PODS}.items():
        _watch(handlers, kind, resource, store, queue)
    return handlers


def settings() -> kopf.OperatorSettings:
    """Kopf as a watcher: bounded waits, filtered on the server, no writes, no scanning."""
    chosen = kopf.OperatorSettings()
    chosen.scanning.disabled = True
    chosen.posting.enabled = False
    chosen.peering.standalone = True
    chosen.watching.server_timeout = 300
    chosen.watching.client_timeout = 360
    chosen.watching.connect_timeout = 5
    chosen.watching.chunk_size = 500
    chosen.networking.request_timeout = 30
    chosen.networking.connect_timeout = 5
    # A worker that lingers counts against nothing here, but costs memory.
    chosen.queueing.idle_timeout = 0.1
    chosen.process.ultimate_exiting_timeout = 30
    chosen.persistence.diffbase_storage = _NoDiffs()
    for resource in (*CHILDREN.values(), PODS):
        chosen.watching.label_selectors[resource] = OURS
    return chosen


class _NoDiffs(kopf.AnnotationsDiffBaseStorage):
    """Kopf compares each object with a copy of its last state: nobody here asks for that."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> None:
        return None


def _watch(
    handlers: kopf.OperatorRegistry,
    kind: str,
    resource: tuple[str, str, str],
    store: Store,
    queue: WorkQueue[Key],
) -> None:
    """Keep the objects of a resource, and have each news looked at."""
    group, version, plural = resource
    where: dict[str, Any] = {"group": group, "version": version, "plural": plural}

    @kopf.on.event(**where, id=kind, registry=handlers)
    async def notice(type: str | None, body: kopf.Body, **_: Any) -> None:
        key = key_of_pod(body) if kind == POD else key_of(body)
        if type == "DELETED":
            metadata = body["metadata"]
            store.drop(kind, key, metadata["uid"], int(metadata["resourceVersion"]))
            queue.add_after(key, SOON_S)
        elif not store.put(kind, body):
            return
        elif _is_new_spec(kind, body):
            queue.add(key, urgent=True)
        else:
            queue.add_after(key, SOON_S)


def _is_new_spec(kind: str, body: Mapping[str, Any]) -> bool:
    """Somebody waits for this; all else follows from what we do ourselves, in bursts."""
    observed = body.get("status", {}).get("observedGeneration")
    return kind == names.KIND and observed != body["metadata"].get("generation")
