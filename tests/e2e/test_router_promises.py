"""What the router promises in numbers, on a real cluster.

400 streams at once lose nothing with a pod, a router takes along what it holds and no more, new
pods empty a queue, and from zero the first token needs little more than the pod's own start.
"""

import asyncio
import json
import time
from collections.abc import Callable
from datetime import datetime
from statistics import median
from typing import Any

import aiohttp
import pytest

from tests.cluster.cluster import Cluster
from tests.e2e import deaths
from tests.e2e.crowd import Body, Crowd, all_begun, crowd, until
from tests.e2e.services import Service
from tests.router.streamed import Streamed

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(600)]

SMALL = {"uri": "builtin://helmsman-1m-draft"}
STREAMS = 400
AGAIN_S = 10.0  # until what broke with a router is taken by another one
SEATS, CLIENTS = 8, 28  # of one pod; of the queue, more than three pods have seats for
QUEUE_S = 10.0
WAKES, WAKE_S = 3, 1.0


@pytest.fixture
def service(cluster: Cluster, operator: None, namespace: str) -> Service:
    if not cluster.on_this_machine:
        pytest.skip("pods are killed, and their network is entered, on the machine of the node")
    return Service(cluster, namespace)


def variable(name: str, value: object) -> dict[str, Any]:
    return {"env": [{"name": name, "value": str(value)}]}


def bodies(num_tokens: int) -> list[Body]:
    """Greedy ones and seeded ones in turn, no two alike."""
    return [
        {
            "model": "chat",
            "prompt": f"{number} pods ask: what is a Deployment?",
            "max_tokens": num_tokens,
            "ignore_eos": True,
            "temperature": number % 2,
            "seed": number,
        }
        for number in range(STREAMS)
    ]


async def test_answers_are_the_same_to_the_letter_whatever_befalls_a_pod(
    service: Service, tell: Callable[[str], None]
) -> None:
    exact = variable("AWEIGH_EXACT", "true")
    service.apply(model={**SMALL, "dtype": "fp32"}, replicas=2, template=exact)
    service.wait_ready()
    async with crowd(service) as clients:
        undisturbed = [Streamed() for _ in range(STREAMS)]
        await clients.ask(undisturbed, bodies(120))
        assert all(each.whole for each in undisturbed)
        for fault in (deaths.kill, deaths.kill_engine, deaths.stop):
            streams, resumed = [Streamed() for _ in range(STREAMS)], await clients.resumed()
            asking = asyncio.create_task(clients.ask(streams, bodies(120)))
            await all_begun(streams)
            (pod, _) = service.pods()
            fault(pod)
            await asking
            assert all(each.whole for each in streams), fault.__name__
            assert [each.texts for each in streams] == [each.texts for each in undisturbed]
            resumed = await clients.resumed() - resumed
            assert resumed > STREAMS // 4  # what this pod had the other one went on with
            tell(
                f"{fault.__name__}: {STREAMS} streams, the same texts, {resumed} went on elsewhere"
            )
            await asyncio.to_thread(_recover, service, pod)


def _recover(service: Service, pod: dict[str, Any]) -> None:
    """What still is of the pod is ended, and another container serves in its place."""
    name = pod["metadata"]["name"]
    before = sum(each["restartCount"] for each in pod["status"]["containerStatuses"])
    if deaths.processes_of(pod["metadata"]["uid"]) and service.restarts(name) == before:
        deaths.kill(pod)
    service.cluster.wait("another container", lambda: service.restarts(name) > before, 60)
    service.wait_ready(120)
    service.cluster.wait("two that serve", lambda: service.serving() == 2, 60)


async def test_a_killed_router_breaks_what_it_holds_and_that_can_be_asked_again_at_once(
    service: Service, tell: Callable[[str], None]
) -> None:
    service.apply(model=SMALL, replicas=2)
    service.wait_ready()
    streams = [Streamed() for _ in range(STREAMS)]
    async with crowd(service) as clients:
        asking = asyncio.gather(*(map(_insist, [clients] * STREAMS, streams, bodies(400))))
        await all_begun(streams)
        before, (first, _) = await clients.states(), service.routers()
        deaths.kill(first)
        lost_s = [each for each in await asking if each is not None]
    held = before.pop(first["metadata"]["name"]).in_flight
    (kept,) = (state.in_flight for state in before.values())
    broken, whole = len(lost_s), sum(each.whole for each in streams)
    assert (broken, whole) == (held, kept)
    assert broken + whole == STREAMS
    tell(
        f"a router killed: {whole} of {STREAMS} streams whole, {broken} broken and asked again, "
        f"all of them taken within {max(lost_s):.1f} s"
    )


async def _insist(clients: Crowd, streamed: Streamed, body: Body) -> float | None:
    """Ask, and if that breaks off at once again; seconds until it was taken then."""
    try:
        await clients.read(streamed, body)
    except aiohttp.ClientError:
        broke_s = taken_s = time.monotonic()
    else:
        return None
    while taken_s - broke_s < AGAIN_S:
        again = Streamed()
        try:
            await clients.read(again, body)
        except aiohttp.ClientOSError:  # some are led to the dead one, or have a connection to it
            await asyncio.sleep(0.05)
            taken_s = time.monotonic()
            continue
        assert again.whole
        return taken_s - broke_s
    raise TimeoutError(f"no router took a request within {AGAIN_S:.0f} s")


async def test_a_queue_is_gone_once_more_pods_are_ready(
    service: Service, tell: Callable[[str], None]
) -> None:
    few = variable("AWEIGH_MAX_RUNNING", SEATS)
    spec: dict[str, Any] = {"model": SMALL, "router": {"replicas": 2}, "template": few}
    service.apply(replicas=1, **spec)
    service.wait_ready()
    async with crowd(service) as clients:
        stop = asyncio.Event()
        asking = asyncio.gather(*(_keep_asking(clients, n, stop) for n in range(CLIENTS)))

        async def queued(count: int) -> bool:
            return await clients.waiting() == count

        async def all_ready() -> bool:
            return await asyncio.to_thread(service.serving) == 4

        await until(lambda: queued(CLIENTS - SEATS), 60)
        service.apply(replicas=4, **spec)
        await until(all_ready, 120)
        gone_s = await until(lambda: queued(0), QUEUE_S)
        stop.set()
        answered = sum(await asking)
    tell(
        f"from 1 to 4 pods: {CLIENTS - SEATS} requests waited, none {gone_s:.1f} s after all were "
        f"ready; {answered} streams, all whole"
    )


async def _keep_asking(clients: Crowd, number: int, stop: asyncio.Event) -> int:
    answered = 0
    while not stop.is_set():
        streamed = Streamed()
        prompt = f"{number} asks for the {answered}th time: what is a Deployment?"
        body = {"model": "chat", "prompt": prompt, "max_tokens": 300, "ignore_eos": True}
        await clients.read(streamed, body)
        assert streamed.whole
        answered += 1
    return answered


async def test_from_zero_a_token_comes_a_second_after_the_pods_own_start_at_the_latest(
    service: Service, tell: Callable[[str], None]
) -> None:
    """The start is the pod's, from its creation to its word that it is ready."""
    scaling = {"minReplicas": 0, "maxReplicas": 1, "idleAfterSeconds": 10}
    drain = {"settleSeconds": 0, "timeoutSeconds": 30}
    service.apply(model=SMALL, scaling=scaling, drain=drain)
    service.wait_ready()
    woke_s, began_s = [], []
    for _ in range(WAKES):
        service.wait_for_reason("Ready", "ScaledToZero")
        service.cluster.wait("no pod", lambda: service.pods() == [])
        asked, first = await _asked_and_answered(service)
        created, ready = _start(service)
        woke_s.append(created - asked)
        began_s.append(first - ready)
        tell(
            f"from zero: a pod {woke_s[-1]:.2f} s after the request, ready {ready - created:.1f} s "
            f"later, the first token {began_s[-1]:.2f} s after that"
        )
    assert median(map(sum, zip(woke_s, began_s, strict=True))) <= WAKE_S


async def _asked_and_answered(service: Service) -> tuple[float, float]:
    """When a request was sent to no pod, and when its first token came: seconds of the clock."""
    streamed, asked = Streamed(), time.time()
    async with crowd(service) as clients:
        body = {"model": "chat", "prompt": "What is a Pod?", "max_tokens": 5, "ignore_eos": True}
        await clients.read(streamed, body)
    assert streamed.whole
    assert streamed.first_s is not None
    return asked, streamed.first_s


def _start(service: Service) -> tuple[float, float]:
    """When the pod that there is was created, and when it was ready: seconds of the clock."""
    (pod,) = service.pods()
    lines = service.cluster.logs(pod["metadata"]["name"], service.namespace).splitlines()
    (ready,) = (each for each in map(json.loads, lines) if each["message"] == "ready")
    created = [
        each["requestReceivedTimestamp"]
        for each in service.cluster.audit()
        if each["verb"] == "create"
        and each["requestURI"] == f"/api/v1/namespaces/{service.namespace}/pods"
        and each["responseStatus"]["code"] == 201
    ]
    return _clock(created[-1]), _clock(ready["time"])


def _clock(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
