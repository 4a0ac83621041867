"""Kopf wiring: an object goes into the store, and what is news as a key into the queue.

Kopf watches and never writes: no handler here needs a finalizer, an annotation or an event.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import kopf

from aweigh_api import names
from aweigh_operator.observe import Key
from aweigh_operator.resources import OURS, RESOURCES
from aweigh_operator.store import Store, services_of
from aweigh_operator.workqueue import WorkQueue

SOON_S = 0.1  # what children do in this time is looked at together


def registry(
    queue: WorkQueue[Key],
    store: Store,
    login: Callable[[], Awaitable[kopf.ConnectionInfo]],
    relisted: Callable[[], None],
) -> kopf.OperatorRegistry:
    """All handlers.

    Args:
        queue: takes the keys.
        store: takes the objects.
        login: the way to the API server.
        relisted: is told of each object that comes from a listing: one of the watches has begun
            anew, and has missed what was deleted meanwhile.
    """
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    async def connect(**_: Any) -> kopf.ConnectionInfo:
        return await login()

    for kind in RESOURCES:
        _watch(handlers, kind, store, queue, relisted)
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
    for kind in RESOURCES.keys() - {names.KIND}:
        chosen.watching.label_selectors[_resource(kind)] = OURS
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
    store: Store,
    queue: WorkQueue[Key],
    relisted: Callable[[], None],
) -> None:
    """Keep the objects of a kind, and have each news looked at."""
    group, version, plural = _resource(kind)
    where: dict[str, Any] = {"group": group, "version": version, "plural": plural}

    @kopf.on.event(**where, id=kind, registry=handlers)
    async def notice(type: str | None, body: kopf.Body, **_: Any) -> None:
        if type is None:
            relisted()
        if type == "DELETED":
            metadata = body["metadata"]
            for key in services_of(kind, body):
                store.drop(kind, key, metadata["uid"], int(metadata["resourceVersion"]))
                queue.add_after(key, SOON_S)
            return
        for key in store.put(kind, body, listed=type is None):
            if _is_new_spec(kind, body):
                queue.add(key, urgent=True)
            else:
                queue.add_after(key, SOON_S)


def _resource(kind: str) -> tuple[str, str, str]:
    """Its group, version and plural name."""
    api, plural = RESOURCES[kind]
    group, _, version = api.rpartition("/")
    return group, version, plural


def _is_new_spec(kind: str, body: Mapping[str, Any]) -> bool:
    """Somebody waits for this; all else follows from what we do ourselves, in bursts."""
    observed = body.get("status", {}).get("observedGeneration")
    return kind == names.KIND and observed != body["metadata"].get("generation")
