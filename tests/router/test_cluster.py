"""Finding pods: lists, watches, expiries, outages. The API server is a small one of ours."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from aweigh_api.names import MODEL, REASON
from aweigh_router import cluster
from aweigh_router.cluster import ApiServer, NotInCluster, Watch
from aweigh_router.rooms import Found
from aweigh_router.slices import Slices
from tests.router.api_server import Lists, endpoints, listing
from tests.router.routing import eventually


@pytest.fixture
async def server() -> AsyncIterator[Lists]:
    async with listing() as lists:
        yield lists


@pytest.fixture
async def told(server: Lists, tmp_path: Path) -> AsyncIterator[list[list[Found]]]:
    """Everything that a watch has told, as it grows."""
    (tmp_path / "token").write_text("the-token\n")
    told: list[list[Found]] = []

    async def at_once(_: float) -> None:
        await asyncio.sleep(0.01)

    api = ApiServer(server.url, tmp_path)
    slices = Slices(tls=False)
    watch = Watch(api, "ns", "chat-pods", slices, lambda: told.append(slices.found()))
    watching = asyncio.create_task(watch.run(at_once))
    yield told
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


def names(found: list[Found]) -> dict[str, bool]:
    return {pod.name: pod.ready for pod in found}


async def test_every_change_is_told(server: Lists, told: list[list[Found]]) -> None:
    await eventually(lambda: told)
    assert told[-1] == []
    for kind, item, expected in (
        ("ADDED", endpoints("s1", 8, a=False), {"a": False}),
        ("MODIFIED", endpoints("s1", 9, a=True), {"a": True}),
        ("BOOKMARK", {"metadata": {"resourceVersion": "10"}}, {"a": True}),
        ("ADDED", endpoints("s2", 11, bb=True, a=False), {"a": True, "bb": True}),
        ("DELETED", endpoints("s1", 12, a=True), {"a": False, "bb": True}),
    ):
        server.events.put_nowait({"type": kind, "object": item})
        await eventually(partial(_said, told, expected))
    assert {pod.url for pod in told[-1]} == {"http://10.0.0.1:8000", "http://10.0.0.2:8000"}


def _said(told: list[list[Found]], expected: dict[str, bool]) -> bool:
    return names(told[-1]) == expected


async def test_a_watch_goes_on_where_it_ended_and_lists_again_when_that_is_gone(
    server: Lists, told: list[list[Found]]
) -> None:
    server.events.put_nowait({"type": "ADDED", "object": endpoints("s1", 9, a=True)})
    server.events.put_nowait(None)
    await eventually(lambda: server.asked == ["7", "9"])
    assert server.lists == 1
    server.items = [endpoints("s1", 20, a=True, bb=True)]
    server.events.put_nowait({"type": "ERROR", "object": {"code": 410, "message": "too old"}})
    await eventually(lambda: names(told[-1]) == {"a": True, "bb": True})
    assert server.lists == 2


async def test_pods_stay_known_while_the_api_server_does_not_answer(
    server: Lists, told: list[list[Found]]
) -> None:
    server.events.put_nowait({"type": "ADDED", "object": endpoints("s1", 9, a=True)})
    await eventually(lambda: told and names(told[-1]) == {"a": True})
    server.fails = True
    server.events.put_nowait(None)
    await asyncio.sleep(0.2)
    assert names(told[-1]) == {"a": True}
    server.fails, server.items = False, [endpoints("s1", 9, bb=True)]
    await eventually(lambda: names(told[-1]) == {"bb": True})


@asynccontextmanager
async def watching(server: Lists, folder: Path) -> AsyncIterator[list[float]]:
    """How long a watch would have waited before it asked again, each time."""
    (folder / "token").write_text("the-token\n")
    pauses: list[float] = []

    async def noted(pause_s: float) -> None:
        pauses.append(pause_s)
        await asyncio.sleep(0)

    api = ApiServer(server.url, folder)
    watch = Watch(api, "ns", "chat-pods", Slices(tls=False), lambda: None)
    running = asyncio.create_task(watch.run(noted))
    yield pauses
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_watch_that_ends_at_once_is_asked_again_ever_more_seldom(
    server: Lists, tmp_path: Path
) -> None:
    for _ in range(20):
        server.events.put_nowait(None)
    async with watching(server, tmp_path) as pauses:
        await eventually(lambda: len(pauses) == 20)
    assert server.lists == 1  # what was known stays
    assert 0.0 < pauses[0] < pauses[4] <= max(pauses) <= 15.0
    assert len(set(pauses[10:])) > 1  # all routers at once would ask at once


async def test_a_watch_that_has_worked_is_asked_again_soon(
    server: Lists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_AGAIN_S", 0.05)
    for _ in range(3):
        server.events.put_nowait(None)
    async with watching(server, tmp_path) as pauses:
        await eventually(lambda: len(server.asked) == 4)
        await asyncio.sleep(0.5)  # longer than the pause that would come now: 0.2 to 0.4 s
        server.events.put_nowait(None)
        await eventually(lambda: len(pauses) == 4)
    assert pauses[3] <= 0.05


def test_the_reason_that_a_service_is_not_ready_comes_with_its_slices() -> None:
    slices = Slices(tls=True)
    empty = endpoints("s1", 1)
    empty["metadata"]["labels"] = {REASON: "CrashLooping"}
    slices.replace([empty, endpoints("s2", 1, a=True)])
    assert slices.reason() == "CrashLooping"
    assert slices.found()[0].url.startswith("https://")
    slices.change("MODIFIED", endpoints("s1", 2))
    assert slices.reason() is None


def test_names_that_pods_will_have_come_with_their_slices() -> None:
    slices, one, other = Slices(tls=False), endpoints("s1", 1), endpoints("s2", 1, a=True)
    one["metadata"]["labels"], other["metadata"]["labels"] = {MODEL: "old"}, {MODEL: "new"}
    slices.replace([one, other, endpoints("s3", 1)])
    assert slices.models() == {"old", "new"}
    slices.change("DELETED", one)
    assert slices.models() == {"new"}


def test_outside_of_a_cluster_it_says_what_to_do() -> None:
    with pytest.raises(NotInCluster, match="--pod URL instead"):
        ApiServer.of_this_pod({})
    inside = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert ApiServer.of_this_pod(inside).url == "https://[fd00::1]:443"
