"""Streams to the routers of a service that has no pod, against a real server."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from aweigh_api import names
from aweigh_api.router_state import WAKE_PATH, RouterState
from aweigh_operator import routers
from aweigh_operator.observe import Key, Pod, pod_of
from aweigh_operator.routers import Routers
from tests.operator import fakes
from tests.operator.fakes import KEY


def state(waiting: int) -> RouterState:
    return RouterState(
        boot_id="a", uptime_s=5.0, phase="ready", arrived_requests=3, waiting=waiting, in_flight=0
    )


def router(
    name: str = "chat-router-1", *, ready: bool = True, leaving: bool = False, running: bool = True
) -> Pod:
    body = fakes.pod(name, ready=ready, running=running, podIP="127.0.0.1")
    if leaving:
        body["metadata"]["deletionTimestamp"] = fakes.NOW_TEXT
    body["metadata"]["labels"] = names.router_labels(KEY.name)
    return pod_of(body)


class Waking:
    """A router's admin port: what is put into `lines` goes to whoever listens."""

    def __init__(self) -> None:
        self.lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.opened, self.closed = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def wake(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        self.opened.release()
        try:
            while (line := await self.lines.get()) is not None:
                await response.write(line)
        except (ConnectionError, asyncio.CancelledError):
            self.closed.release()
            raise
        return response

    def say(self, waiting: int) -> None:
        self.lines.put_nowait(state(waiting).to_json().encode() + b"\n")


@pytest.fixture
def waking(monkeypatch: pytest.MonkeyPatch) -> Waking:
    monkeypatch.setattr(routers, "PAUSE_S", 0.01)
    return Waking()


@pytest.fixture
def woken() -> "asyncio.Queue[Key]":
    return asyncio.Queue()


@pytest.fixture
async def listening(waking: Waking, woken: "asyncio.Queue[Key]") -> AsyncIterator[Routers]:
    app = web.Application()
    app.router.add_get(WAKE_PATH, waking.wake)
    async with (
        TestServer(app, handler_cancellation=True) as server,
        aiohttp.ClientSession() as session,
    ):
        found = Routers(session, woken.put_nowait, port=server.port or 0)
        yield found
        found.forget()
        waking.lines.put_nowait(None)


async def test_a_request_that_waits_wakes_its_service_at_once(
    listening: Routers, waking: Waking, woken: "asyncio.Queue[Key]"
) -> None:
    listening.listen(KEY, [router()])
    waking.say(0)
    whole = state(2).to_json().encode() + b"\n"
    waking.lines.put_nowait(whole[:30])  # a line may come in pieces
    waking.lines.put_nowait(whole[30:])
    assert await asyncio.wait_for(woken.get(), 5) == KEY
    assert woken.empty()
    assert await listening.read([router()], 60.0) == {"uid-of-chat-router-1": state(2)}


async def test_a_router_that_ends_is_listened_to_as_long_as_it_runs(
    listening: Routers, waking: Waking, woken: "asyncio.Queue[Key]"
) -> None:
    ends = router(ready=False, leaving=True)
    listening.listen(KEY, [ends])
    waking.say(1)
    assert await asyncio.wait_for(woken.get(), 5) == KEY
    assert await listening.read([ends], 60.0) == {"uid-of-chat-router-1": state(1)}
    listening.listen(KEY, [router(ready=False, leaving=True, running=False)])
    await asyncio.wait_for(waking.closed.acquire(), 5)


async def test_a_stream_that_ends_is_opened_again(
    listening: Routers, waking: Waking, woken: "asyncio.Queue[Key]"
) -> None:
    listening.listen(KEY, [router()])
    waking.lines.put_nowait(b"{no json}\n")
    await asyncio.wait_for(waking.opened.acquire(), 5)
    waking.lines.put_nowait(None)
    await asyncio.wait_for(waking.opened.acquire(), 5)
    waking.say(1)
    assert await asyncio.wait_for(woken.get(), 5) == KEY


async def test_one_stream_is_kept_while_a_service_has_no_pod_and_none_after(
    listening: Routers, waking: Waking
) -> None:
    for _ in range(3):
        listening.listen(KEY, [router()])
    await asyncio.wait_for(waking.opened.acquire(), 5)
    assert waking.opened.locked()
    listening.listen(KEY, ())
    await asyncio.wait_for(waking.closed.acquire(), 5)
    listening.listen(KEY, [router(ready=False)])
    await asyncio.sleep(0)
    assert waking.opened.locked()
