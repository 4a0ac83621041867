"""Finding pods: lists, watches, expiries, outages. The API server is a small one of ours."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aweigh_api.names import REASON
from aweigh_router.cluster import ApiServer, NotInCluster, Watch
from aweigh_router.rooms import Found
from aweigh_router.slices import Slices
from tests.router.routing import eventually


def endpoints(name: str, version: int, **pods: bool) -> dict[str, Any]:
    """A slice; each pod with whether it is ready."""
    return {
        "metadata": {"name": name, "resourceVersion": str(version)},
        "ports": [{"name": "http", "port": 8000}],
        "endpoints": [
            {
                "addresses": [f"10.0.0.{len(pod)}"],
                "conditions": {"ready": ready},
                "targetRef": {"kind": "Pod", "name": pod},
            }
            for pod, ready in pods.items()
        ],
    }


class Server:
    """Lists and watches EndpointSlices of one Service."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.lists = 0
        self.fails = False
        self.asked: list[str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        assert request.headers["Authorization"] == "Bearer the-token"
        assert request.query["labelSelector"] == "kubernetes.io/service-name=chat-pods"
        if self.fails:
            raise web.HTTPInternalServerError
        if "watch" not in request.query:
            self.lists += 1
            return web.json_response({"metadata": {"resourceVersion": "7"}, "items": self.items})
        self.asked.append(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        while (event := await self.events.get()) is not None:
            await response.write(json.dumps(event).encode() + b"\n")
        return response


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, str]]:
    server = Server()
    app = web.Application()
    path = "/apis/discovery.k8s.io/v1/namespaces/ns/endpointslices"
    app.router.add_get(path, server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield server, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def told(server: tuple[Server, str], tmp_path: Path) -> AsyncIterator[list[list[Found]]]:
    """Everything that a watch has told, as it grows."""
    (tmp_path / "token").write_text("the-token\n")
    told: list[list[Found]] = []

    async def at_once(_: float) -> None:
        await asyncio.sleep(0.01)

    api = ApiServer(server[1], tmp_path)
    slices = Slices(tls=False)
    watch = Watch(api, "ns", "chat-pods", slices, lambda found, _: told.append(found))
    watching = asyncio.create_task(watch.run(at_once))
    yield told
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


def names(found: list[Found]) -> dict[str, bool]:
    return {pod.name: pod.ready for pod in found}


async def test_every_change_is_told(server: tuple[Server, str], told: list[list[Found]]) -> None:
    api, _ = server
    await eventually(lambda: told)
    assert told[-1] == []
    for kind, item, expected in (
        ("ADDED", endpoints("s1", 8, a=False), {"a": False}),
        ("MODIFIED", endpoints("s1", 9, a=True), {"a": True}),
        ("BOOKMARK", {"metadata": {"resourceVersion": "10"}}, {"a": True}),
        ("ADDED", endpoints("s2", 11, bb=True, a=False), {"a": True, "bb": True}),
        ("DELETED", endpoints("s1", 12, a=True), {"a": False, "bb": True}),
    ):
        api.events.put_nowait({"type": kind, "object": item})
        await eventually(partial(_said, told, expected))
    assert {pod.url for pod in told[-1]} == {"http://10.0.0.1:8000", "http://10.0.0.2:8000"}


def _said(told: list[list[Found]], expected: dict[str, bool]) -> bool:
    return names(told[-1]) == expected


async def test_a_watch_goes_on_where_it_ended_and_lists_again_when_that_is_gone(
    server: tuple[Server, str], told: list[list[Found]]
) -> None:
    api, _ = server
    api.events.put_nowait({"type": "ADDED", "object": endpoints("s1", 9, a=True)})
    api.events.put_nowait(None)
    await eventually(lambda: api.asked == ["7", "9"])
    assert api.lists == 1
    api.items = [endpoints("s1", 20, a=True, bb=True)]
    api.events.put_nowait({"type": "ERROR", "object": {"code": 410, "message": "too old"}})
    await eventually(lambda: names(told[-1]) == {"a": True, "bb": True})
    assert api.lists == 2


async def test_pods_stay_known_while_the_api_server_does_not_answer(
    server: tuple[Server, str], told: list[list[Found]]
) -> None:
    api, _ = server
    api.events.put_nowait({"type": "ADDED", "object": endpoints("s1", 9, a=True)})
    await eventually(lambda: told and names(told[-1]) == {"a": True})
    api.fails = True
    api.events.put_nowait(None)
    await asyncio.sleep(0.2)
    assert names(told[-1]) == {"a": True}
    api.fails, api.items = False, [endpoints("s1", 9, bb=True)]
    await eventually(lambda: names(told[-1]) == {"bb": True})


async def test_a_watch_that_ends_at_once_is_asked_again_ever_more_seldom(
    server: tuple[Server, str], tmp_path: Path
) -> None:
    api, url = server
    (tmp_path / "token").write_text("the-token\n")
    pauses: list[float] = []

    async def noted(pause_s: float) -> None:
        pauses.append(pause_s)
        await asyncio.sleep(0)

    for _ in range(20):
        api.events.put_nowait(None)
    watch = Watch(ApiServer(url, tmp_path), "ns", "chat-pods", Slices(tls=False), lambda *_: None)
    watching = asyncio.create_task(watch.run(noted))
    await eventually(lambda: api.events.empty() and len(pauses) == 20)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert api.lists == 1  # what was known stays
    assert 0.0 < pauses[0] < pauses[4] <= max(pauses) <= 15.0
    assert len(set(pauses[10:])) > 1  # all routers at once would ask at once


def test_the_reason_that_a_service_is_not_ready_comes_with_its_slices() -> None:
    slices = Slices(tls=True)
    empty = endpoints("s1", 1)
    empty["metadata"]["labels"] = {REASON: "CrashLooping"}
    slices.replace([empty, endpoints("s2", 1, a=True)])
    assert slices.reason() == "CrashLooping"
    assert slices.found()[0].url.startswith("https://")
    slices.change("MODIFIED", endpoints("s1", 2))
    assert slices.reason() is None


def test_outside_of_a_cluster_it_says_what_to_do() -> None:
    with pytest.raises(NotInCluster, match="--pod URL instead"):
        ApiServer.of_this_pod({})
    inside = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert ApiServer.of_this_pod(inside).url == "https://[fd00::1]:443"
