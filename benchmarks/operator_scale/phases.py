"""What is measured of an operator, one function a figure. Each leaves the services idle."""

import asyncio
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aweigh_api import names
from benchmarks.operator_scale.api import CHILDREN, Api, Manifest
from tests.e2e.local_operator import LocalOperator

PATIENCE_S = 900.0
CHANGE_PATIENCE_S = 120.0
SETTLE_S = 20.0  # after which the consequences of a change are over
RESYNCS = 10
READY = 'aweigh_operator_inference_services{ready="True"'  # whatever else is told of them
Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Created:
    """How long it took until so many services were there."""

    children_s: float = 0.0
    ready_s: float = 0.0
    requests: float = 0.0  # to the API server
    reconciles: float = 0.0


@dataclass(frozen=True)
class Idle:
    """What an operator costs while nothing changes."""

    cpu_percent: float = 0.0  # of one core
    reports_per_15_s: float = 0.0
    requests_per_s: float = 0.0
    reconciles_per_s: float = 0.0


def services(count: int, per_namespace: int = 50) -> list[tuple[str, str]]:
    """Namespace and name of each."""
    return [(f"scale-{n // per_namespace}", f"model-{n}") for n in range(count)]


def manifest(namespace: str, name: str) -> Manifest:
    """An InferenceService as users write it, each one a little different."""
    memory = f"{1024 + int(name.rpartition('-')[2])}Mi"
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "model": {"uri": "builtin://helmsman-8m"},
            "replicas": 1,
            "resources": {
                "requests": {"cpu": "250m", "memory": memory},
                "limits": {"memory": "4Gi"},
            },
        },
    }


async def created(api: Api, operator: LocalOperator, at: list[tuple[str, str]]) -> Created:
    """From the first of them to the last child, and until all are Ready."""
    spaces = dict.fromkeys(namespace for namespace, _ in at)
    await api.create(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in spaces
    )
    await asyncio.sleep(5.0)  # each namespace gets its own account
    before = {kind: await api.count(kind) for kind in CHILDREN}
    told, began_s = operator.metrics(), time.monotonic()
    creating = asyncio.create_task(api.create(manifest(*each) for each in at))

    async def complete() -> bool:
        return all([await api.count(kind) - before[kind] >= len(at) for kind in CHILDREN])

    children_s = await _until("all children are there", complete, 0.5) - began_s
    await creating
    ready_s = await ready(api, operator, len(at)) - began_s
    now = operator.metrics()
    return Created(children_s, ready_s, requests(now, told), reconciles(now, told))


async def ready(api: Api, operator: LocalOperator, count: int) -> float:
    """When so many services are Ready."""

    async def by_its_metrics() -> bool:
        told = operator.metrics().items()
        return sum(value for name, value in told if name.startswith(READY)) >= count

    async def by_the_api_server() -> bool:
        return await api.num_ready() >= count

    await _until("all services are Ready", by_its_metrics, 0.5)
    return await _until("all services are Ready", by_the_api_server, 1.0)


async def deployments(api: Api, count: int) -> None:
    """Until there are so many: each router is one more."""

    async def there() -> bool:
        return await api.count("Deployment") == count

    await _until(f"there are {count} Deployments", there, 1.0)


async def changes_s(api: Api, at: list[tuple[str, str]], replicas: int) -> list[float]:
    """Of each change of one service: seconds from sending it until its Deployment has it."""
    found = []
    for namespace, name in at:
        applied = await _awaited(api, (namespace, name), replicas)
        began_s = time.monotonic()
        await api.patch(names.KIND, [(namespace, name)], {"spec": {"replicas": replicas}})
        found.append(await applied - began_s)
    return found


async def _awaited(api: Api, at: tuple[str, str], replicas: int) -> asyncio.Task[float]:
    """The moment at which the Deployment of a service gets so many replicas."""
    since = await api.version("Deployment", at[0])

    async def applied() -> float:
        async with asyncio.timeout(CHANGE_PATIENCE_S):
            async for body in api.watch("Deployment", at[0], since):
                if body["metadata"]["name"] == at[1] and body["spec"]["replicas"] == replicas:
                    return time.monotonic()
        raise RuntimeError(f"the watch of Deployment {at[1]} has ended")

    task = asyncio.create_task(applied())
    await asyncio.sleep(0.2)  # until the watch is open
    return task


async def idle(operator: LocalOperator, for_s: float) -> Idle:
    """What it takes for as long as this."""
    cpu_s, told, asked = operator.cpu_s(), operator.metrics(), reports_asked()
    began_s = time.monotonic()
    await asyncio.sleep(for_s)
    took_s = time.monotonic() - began_s
    now = operator.metrics()
    return Idle(
        cpu_percent=100 * (operator.cpu_s() - cpu_s) / took_s,
        reports_per_15_s=15 * (reports_asked() - asked) / took_s,
        requests_per_s=requests(now, told) / took_s,
        reconciles_per_s=reconciles(now, told) / took_s,
    )


async def writes_of_resyncs(api: Api, operator: LocalOperator, count: int) -> tuple[int, float]:
    """Children that are written while each service is looked at ten times, and looks at each."""
    told, before = operator.metrics(), await api.versions(CHILDREN)

    async def done() -> bool:
        return reconciles(operator.metrics(), told) >= RESYNCS * count

    await _until(f"{RESYNCS} looks at each service", done, 2.0)
    after = await api.versions(CHILDREN)
    changed = sum(before.get(uid) != after.get(uid) for uid in before.keys() | after.keys())
    return changed, reconciles(operator.metrics(), told) / count


async def knows_all(standby: LocalOperator, count: int) -> None:
    """Until an operator that does not work has every service in its queue."""

    async def waiting() -> bool:
        return standby.metrics().get('workqueue_depth{name="inferenceservice"}', 0) >= count

    await _until("all services wait", waiting, 0.5)


async def takeover_s(
    api: Api, leader: LocalOperator, lease: tuple[str, str], at: tuple[str, str], replicas: int
) -> tuple[float, float]:
    """From the death of the leader: until another holds the Lease, and until it has worked."""
    holder = await api.lease_holder(*lease)
    applied = await _awaited(api, at, replicas)
    leader.kill()
    began_s = time.monotonic()
    await api.patch(names.KIND, [at], {"spec": {"replicas": replicas}})

    async def followed() -> bool:
        return await api.lease_holder(*lease) not in ("", holder)

    held_s = await _until("another operator holds the Lease", followed, 0.1) - began_s
    worked_s = await applied - began_s
    return held_s, worked_s


def requests(now: Metrics, before: Metrics) -> float:
    """Requests to the API server in between."""
    return _sum(now, "rest_client_requests_total") - _sum(before, "rest_client_requests_total")


def reconciles(now: Metrics, before: Metrics) -> float:
    """Reconciles in between."""
    name = "controller_runtime_reconcile_total"
    return _sum(now, name) - _sum(before, name)


def _sum(metrics: Metrics, name: str) -> float:
    return sum(value for key, value in metrics.items() if key.startswith(f"{name}{{"))


def reports_asked() -> int:
    """Reports that the pretended pods have given."""
    url = f"http://127.0.0.1:{names.ADMIN_PORT}/asked"
    with urllib.request.urlopen(url, timeout=10) as response:
        return int(response.read())


async def _until(what: str, holds: Callable[[], Any], every_s: float) -> float:
    deadline_s = time.monotonic() + PATIENCE_S
    while not await holds():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{what}: not so after {PATIENCE_S:.0f} s")
        await asyncio.sleep(every_s)
    return time.monotonic()
