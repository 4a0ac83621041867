"""Kopf wiring: an event becomes a key in the queue, an object an entry in an index; nothing more.

Kopf watches and never writes: no handler here needs a finalizer, an annotation or an event.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import kopf

from aweigh_api import names
from aweigh_operator.observe import Key, Manifest, Pod, key_of, key_of_pod, pod_of, stripped
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
    login: Callable[[], Awaitable[kopf.ConnectionInfo]],
    indices: dict[str, Any],
) -> kopf.OperatorRegistry:
    """All handlers. `queue` takes the keys, `indices` is filled by kind when kopf starts."""
    handlers = kopf.OperatorRegistry()
    resources = {names.KIND: SERVICES, **CHILDREN, "Pod": PODS}

    @kopf.on.login(registry=handlers)
    async def connect(**_: Any) -> kopf.ConnectionInfo:
        return await login()

    @kopf.on.startup(registry=handlers)
    async def begin(**given: Any) -> None:
        indices.update({kind: given[kind] for kind in resources})

    for kind, resource in resources.items():
        key, value = (key_of_pod, pod_of) if kind == "Pod" else (key_of, stripped)
        _watch(handlers, kind, resource, key, value, queue)
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
    for resource in (*CHILDREN.values(), PODS):
        chosen.watching.label_selectors[resource] = OURS
    return chosen


def _watch(
    handlers: kopf.OperatorRegistry,
    kind: str,
    resource: tuple[str, str, str],
    key: Callable[[Mapping[str, Any]], Key],
    value: Callable[[Mapping[str, Any]], Manifest | Pod],
    queue: WorkQueue[Key],
) -> None:
    """Index the objects of a resource by service, and have each event looked at."""
    group, version, plural = resource
    where: dict[str, Any] = {"group": group, "version": version, "plural": plural}

    @kopf.index(**where, id=kind, registry=handlers)
    async def remember(body: kopf.Body, **_: Any) -> dict[Key, Manifest | Pod]:
        return {key(body): value(body)}

    @kopf.on.event(**where, id=f"{kind} changed", registry=handlers)
    async def notice(body: kopf.Body, **_: Any) -> None:
        queue.add_after(key(body), 0 if _is_new_spec(kind, body) else SOON_S)


def _is_new_spec(kind: str, body: Mapping[str, Any]) -> bool:
    """Somebody waits for this; all else follows from what we do ourselves, in bursts."""
    observed = body.get("status", {}).get("observedGeneration")
    return kind == names.KIND and observed != body["metadata"].get("generation")
