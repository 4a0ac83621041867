"""Models by their names: pods of one service have two of them while a name is exchanged."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aweigh_api.names import MODEL, model_label
from aweigh_http.errors import unknown_model
from aweigh_router import app, dispatch
from tests.router.api_server import Lists, endpoints
from tests.router.pod import Fate, Pod, running
from tests.router.routing import Local, eventually, routing


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_BETWEEN_SIGNS_S", 0.05)


def told(asked: str, *served: str) -> tuple[int, dict[str, Any]]:
    """What a pod of these models says to a client that asks for another."""
    return 404, json.loads(unknown_model(asked, served).json())


async def within(answer: Awaitable[tuple[int, dict[str, Any]]]) -> tuple[int, dict[str, Any]]:
    """Long before a request would have waited for too long."""
    async with asyncio.timeout(10):
        return await answer


async def known(local: Local, num_pods: int) -> None:
    await eventually(lambda: local.service.state().known_pods == num_pods)


async def models(local: Local, path: str = "") -> tuple[int, list[str]]:
    async with local.session.get(f"{local.url}/v1/models{path}") as response:
        listed = await response.json()
        return response.status, [each["id"] for each in listed.get("data", ())]


async def test_each_request_goes_to_a_pod_that_serves_the_model_that_it_names(
    tmp_path: Path,
) -> None:
    pods = [Pod(model="mine"), Pod(model="mine"), Pod(model="newname")]
    async with (
        running(*pods),
        routing(tmp_path, pods, model_name="mine") as older,
        routing(tmp_path, pods, model_name="newname") as newer,
    ):
        asked = [(local, name) for local in (older, newer) for name in ("mine", "newname", None)]
        answers = await asyncio.gather(
            *(local.whole(f"{i}", model=name) for i in range(20) for local, name in asked)
        )
        assert {status for status, _ in answers} == {200}
        assert await older.whole("hello", model="no") == told("no", "mine", "newname")
    for pod in pods:
        assert {each.body["model"] for each in pod.seen} - {None} == {pod.model}


async def test_a_request_waits_for_full_pods_of_its_model_and_not_with_another(
    tmp_path: Path,
) -> None:
    old, new = Pod(model="mine", refuses=True), Pod(model="newname")
    async with running(old, new), routing(tmp_path, [old, new]) as local:
        waits = asyncio.create_task(local.whole("hello", model="mine"))
        await eventually(lambda: len(local.service.dispatch.line))
        for _ in range(3):
            assert (await local.whole("hello", model="newname"))[0] == 200
        assert not waits.done()
        old.refuses = False
        old.tell()
        assert (await within(waits))[0] == 200
    assert (len(old.seen), len(new.seen)) == (1, 3)


async def test_the_last_pod_of_a_name_takes_it_along(tmp_path: Path) -> None:
    old, new = Pod(model="mine", refuses=True), Pod(model="newname")
    async with running(old, new), routing(tmp_path, [old, new], model_name="mine") as local:
        waits = asyncio.create_task(local.whole("hello", model="mine"))
        await eventually(lambda: len(local.service.dispatch.line))
        old.phase = "draining"
        old.tell()
        assert await within(waits) == told("mine", "newname")
        assert await within(local.whole("hello", model="mine")) == told("mine", "newname")
        assert (await local.whole("hello", model="newname"))[0] == 200


async def test_a_model_that_a_pod_still_loads_is_waited_for_while_others_serve(
    tmp_path: Path,
) -> None:
    old, new = Pod(model="mine"), Pod(model="newname", phase="loading")
    async with running(old, new), routing(tmp_path, [old, new]) as local:
        await known(local, 1)
        waits = asyncio.create_task(local.whole("hello", model="newname"))
        await eventually(lambda: len(local.service.dispatch.line))
        assert (await local.whole("hello", model="mine"))[0] == 200
        new.phase = "ready"
        new.tell()
        assert (await within(waits))[0] == 200
    assert [len(pod.seen) for pod in (old, new)] == [1, 1]


async def test_a_name_is_waited_for_as_soon_as_the_service_has_it_and_no_pod_yet(
    tmp_path: Path, lists: Lists
) -> None:
    old, new = Pod(model="mine"), Pod(model="newname")

    def tell(pod: Pod, name: str, asked: str) -> None:
        listed = endpoints(name, 8, **{name: True})
        listed["endpoints"][0]["addresses"] = ["127.0.0.1"]
        listed["ports"][0]["port"] = int(pod.url.rpartition(":")[2])
        listed["metadata"]["labels"] = {MODEL: model_label(asked)}
        lists.events.put_nowait({"type": "MODIFIED", "object": listed})

    cluster = {"namespace": "ns", "pods_service": "chat-pods", "model_name": "mine"}
    async with running(old, new), routing(tmp_path, (), **cluster) as local:
        tell(old, "old", "mine")
        await known(local, 1)
        assert await within(local.whole("hello", model="newname")) == told("newname", "mine")
        tell(old, "old", "newname")
        await eventually(lambda: local.service.dispatch.coming == {model_label("newname")})
        waits = asyncio.create_task(local.whole("hello", model="newname"))
        await eventually(lambda: len(local.service.dispatch.line))
        assert await within(local.whole("hello", model="no")) == told("no", "mine")
        assert (await within(local.whole("hello", model="\ud800")))[0] == 404
        assert (await within(local.whole("hello", model="mine")))[0] == 200
        assert not waits.done()
        tell(new, "new", "newname")
        assert (await within(waits))[0] == 200
        lists.events.put_nowait({"type": "DELETED", "object": endpoints("old", 9)})
        await known(local, 1)
        assert await within(local.whole("hello", model="mine")) == told("mine", "newname")


async def test_a_pod_of_another_model_does_not_go_on_with_a_stream_of_the_same_weights(
    tmp_path: Path,
) -> None:
    old, new = Pod(model="mine", hands_over_after=3), Pod(model="newname")
    async with running(old, new), routing(tmp_path, [old, new]) as local:
        asking = asyncio.create_task(local.stream("hello", model="mine", max_tokens=50))
        await eventually(lambda: old.events >= 3)
        old.phase = "draining"
        old.tell()
        async with asyncio.timeout(10):
            streamed = await asking
    assert [error["code"] for error in streamed.errors] == ["not_resumable"]
    assert not new.seen


async def test_a_stream_goes_on_where_the_only_pod_of_its_model_has_started_again(
    tmp_path: Path,
) -> None:
    old, new = Pod(model="mine", fate=Fate(3), revives=True), Pod(model="newname")
    async with running(old, new), routing(tmp_path, [old, new]) as local:
        async with asyncio.timeout(10):
            streamed = await local.stream("hello", model="mine", max_tokens=20)
    assert streamed.whole
    assert [each.resumed for each in old.seen] == [False, True]
    assert not new.seen


async def test_a_pod_that_wants_a_key_is_not_left_for_one_of_another_model(
    tmp_path: Path,
) -> None:
    old, new = Pod(model="mine", wants_key=True), Pod(model="newname")
    async with running(old, new), routing(tmp_path, [old, new]) as local:
        await known(local, 2)
        assert (await within(local.whole("hello", model="mine")))[0] == 401


async def test_what_is_served_is_told_of_all_pods(tmp_path: Path) -> None:
    old, new = Pod(model="mine"), Pod(model="newname")
    async with running(old, new), routing(tmp_path, [old, new]) as local:
        await known(local, 2)
        assert await models(local) == (200, ["mine", "newname"])
        for pod in (old, new):
            assert await models(local, f"/{pod.model}") == (200, [pod.model])
            before, body = len(pod.seen), {"model": pod.model, "prompt": "hello"}
            async with local.session.post(f"{local.url}/tokenize", json=body):
                assert len(pod.seen) == before + 1
        old.phase = "draining"
        old.tell()
        await known(local, 1)
        assert await models(local) == (200, ["newname"])


@dataclass
class Gives(Pod):
    """While it is asked what it serves, something happens."""

    while_asked: Callable[[], Awaitable[None]] | None = None

    async def _models(self, request: web.Request) -> web.Response:
        assert self.while_asked is not None
        await self.while_asked()
        return await super()._models(request)


async def test_a_name_that_goes_while_names_are_told_is_left_out(tmp_path: Path) -> None:
    old, new = Gives(model="mine"), Pod(model="newname")
    async with running(old, new), routing(tmp_path, [old, new]) as local:
        await known(local, 2)

        async def leave() -> None:
            new.phase = "draining"
            new.tell()
            await known(local, 1)

        old.while_asked = leave
        assert await models(local) == (200, ["mine"])


async def test_a_name_whose_pods_do_not_answer_is_left_out_of_those_that_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(app, "_READ_S", 0.2)
    caplog.set_level(logging.INFO, "aweigh.requests")
    old, new = Pod(model="mine"), Pod(model="newname")
    async with (
        running(old, new),
        routing(tmp_path, [old, new]) as local,
        routing(tmp_path, [old, new]) as unconnected,
    ):
        await known(local, 2)
        await known(unconnected, 2)
        await new.shut()  # it reports all the same
        assert await models(local) == (200, ["mine"])
        await old.shut()
        assert await models(unconnected) == (503, [])
    lines = [each.__dict__["fields"] for each in caplog.records if each.msg == "request"]
    assert [line["status"] for line in lines] == [200, 503]


async def test_what_nobody_has_is_refused_at_once_and_wakes_no_pod(
    tmp_path: Path, lists: Lists
) -> None:
    lists.items = [endpoints("s1", 7)]
    cluster = {"namespace": "ns", "pods_service": "chat-pods", "model_name": "mine"}
    async with routing(tmp_path, (), **cluster) as local:
        await eventually(lambda: local.service.phase == "ready")
        news = local.service.dispatch.next_in_vain()
        assert await within(local.whole("hello", model="nope")) == told("nope", "mine")
        assert not news.done()
        asking = asyncio.create_task(local.whole("hello", model="mine"))
        async with asyncio.timeout(10):
            await news
        state = local.service.state()
        assert (state.waiting, state.arrived_requests) == (1, 1)
        starting = endpoints("s1", 8, a=False)
        starting["endpoints"][0]["addresses"] = ["127.0.0.1"]
        starting["ports"][0]["port"] = 9
        lists.events.put_nowait({"type": "MODIFIED", "object": starting})
        await eventually(lambda: len(local.service.dispatch.pods))
        assert await within(local.whole("hello", model="nope")) == told("nope", "mine")
        assert not asking.done()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
