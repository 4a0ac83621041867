"""An operator that loses its Lease and gets it back, from a real server that holds it."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import Configuration

from aweigh_operator import lease, main
from aweigh_operator.cluster import ApiServer
from aweigh_operator.observe import Key, Manifest
from aweigh_operator.workqueue import WorkQueue
from tests.operator import fakes
from tests.operator.fakes import KEY, FakeCluster, Operator

NAME = "aweigh-system/aweigh-operator"
PATIENCE_S = 10.0
LEADS = 'leader_election_master_status{name="inferenceservice"} '


class LeaseServer:
    """An API server that has one Lease, or a proxy's page instead."""

    def __init__(self) -> None:
        self.version = 0
        self.put({})
        self.page: tuple[int, bytes] | None = None  # status and body

    async def answer(self, request: web.Request) -> web.Response:
        if self.page is not None:
            status, body = self.page
            return web.Response(body=body, status=status)
        if request.method == "PUT":
            sent = await request.json()
            if sent["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
                return web.json_response({"message": "conflict"}, status=409)
            self.put(sent["spec"])
        return web.json_response(self.lease)

    def put(self, spec: Manifest) -> None:
        self.version += 1
        namespace, name = NAME.split("/")
        metadata = {"namespace": namespace, "name": name, "resourceVersion": str(self.version)}
        self.lease: Manifest = {"metadata": metadata, "spec": spec}


class World:
    """That server, and an operator that has its turns."""

    def __init__(self) -> None:
        self.server = LeaseServer()
        cluster = FakeCluster()
        cluster.put(fakes.service())
        self.operator = Operator(cluster)
        self.kept: list[asyncio.Task[None]] = []
        self.queue: WorkQueue[Key] = WorkQueue(
            self.operator.reconciler.reconcile, self.operator.metrics
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.server.answer)
        reconciler, metrics = self.operator.reconciler, self.operator.metrics
        async with TestServer(app) as server:
            configuration = Configuration()
            configuration.host = f"http://127.0.0.1:{server.port}"
            api = ApiServer(configuration, lambda *_: None)
            turns = main._turns(NAME, api, self.queue, reconciler, metrics)
            async with contextlib.AsyncExitStack() as stack:
                stack.push_async_callback(api.close)
                self.kept.append(await stack.enter_async_context(turns))
                await self.until(self.leads)
                yield

    def leads(self) -> bool:
        return f"{LEADS}1.0" in self.operator.metrics.text().decode()

    async def until(self, true: Callable[[], bool]) -> None:
        for _ in range(round(PATIENCE_S / 0.01)):
            if true():
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"it has not come within {PATIENCE_S:.0f} s")

    async def lose(self) -> None:
        self.server.page = 503, b""
        await self.until(lambda: not self.leads())


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("RETRY_S", 0.02), ("RENEW_S", 0.3), ("DURATION_S", 1)):
        monkeypatch.setattr(lease, name, seconds)


async def test_who_gets_its_lease_back_before_another_had_it_goes_on_with_what_it_knows() -> None:
    world = World()
    async with world.running():
        await world.operator.reconcile()
        known = world.operator.reconciler._memories[KEY]
        world.operator.routers.heard = {"uid-of-a-router"}
        await world.lose()
        assert not world.operator.routers.heard  # who works, and nobody else, hears of requests
        world.server.page = None
        await world.until(world.leads)
        assert world.operator.reconciler._memories[KEY] is known


async def test_who_gets_its_lease_back_after_another_had_it_begins_anew() -> None:
    world = World()
    async with world.running():
        await world.operator.reconcile()
        await world.lose()
        changes = world.server.lease["spec"]["leaseTransitions"]
        theirs = {"holderIdentity": "another", "leaseTransitions": changes + 1}
        world.server.put({**theirs, "leaseDurationSeconds": 0})
        world.server.page = None
        await world.until(world.leads)
        assert world.server.lease["spec"]["holderIdentity"] == socket.gethostname()
        assert not world.operator.reconciler._memories


@pytest.mark.parametrize("page", [b"<html>back soon</html>", b"\xff\xfe", b"[]", b'{"spec": []}'])
async def test_a_proxys_page_ends_no_election(page: bytes) -> None:
    world = World()
    async with world.running():
        world.server.page = 200, page
        await asyncio.sleep(0.1)
        before, world.server.page = world.server.lease, None
        await world.until(lambda: world.server.lease is not before and world.leads())
        assert main._trouble(world.queue, world.kept) is None
    assert main._trouble(world.queue, world.kept) is None  # an end in order is no trouble


async def test_an_operator_that_keeps_its_lease_no_more_is_not_alive() -> None:
    world = World()

    def fail() -> None:
        raise RuntimeError("no router")

    async with world.running():
        world.operator.routers.forget = fail  # type: ignore[method-assign]
        world.server.page = 503, b""
        await world.until(lambda: main._trouble(world.queue, world.kept) is not None)
        told = main._trouble(world.queue, world.kept)
        assert told == "the Lease is kept no more: RuntimeError('no router')"
