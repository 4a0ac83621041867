import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from aweigh_api.state import MAX_STATE_BYTES, State
from aweigh_operator import pods
from aweigh_operator.autoscaling import FRESH_S, LOOK_S, PATIENCE_S, RETRY_S
from aweigh_operator.observe import Pod, pod_of
from aweigh_operator.pods import Reports
from tests.operator import fakes

STATE = {"boot_id": "b", "uptime_s": 1.5, "phase": "ready", "a_later_field": 1}


class Runtime:
    """A pod's admin port that answers what it is told to."""

    def __init__(self) -> None:
        self.body = json.dumps(STATE).encode()
        self.status = 200
        self.piece = 4096
        self.delay_s = 0.0
        self.asked = 0

    async def state(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        await asyncio.sleep(self.delay_s)
        response = web.StreamResponse(status=self.status)
        await response.prepare(request)
        for start in range(0, len(self.body), self.piece):
            await response.write(self.body[start : start + self.piece])
            await asyncio.sleep(0.001)
        return response


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def runtime() -> Runtime:
    return Runtime()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def reports(runtime: Runtime, clock: Clock) -> AsyncIterator[Reports[State]]:
    app = web.Application()
    app.router.add_get("/state", runtime.state)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        yield Reports(session, State, port=server.port or 0, clock=clock)


def a_pod(name: str = "chat-1", **status: Any) -> Pod:
    return pod_of(fakes.pod(name, **{"ready": True, "podIP": "127.0.0.1", **status}))


async def test_a_report_is_read_and_what_a_newer_pod_adds_is_ignored(
    reports: Reports[State],
) -> None:
    found = await reports.read([a_pod()])
    assert found["uid-of-chat-1"].phase == "ready"


async def test_a_report_that_arrives_in_pieces_is_read_whole(
    reports: Reports[State], runtime: Runtime
) -> None:
    runtime.piece = 10
    assert len(await reports.read([a_pod()])) == 1


async def test_only_pods_that_run_are_asked(reports: Reports[State], runtime: Runtime) -> None:
    idle = a_pod(ready=False), a_pod(podIP=None), a_pod(phase="Failed")
    assert await reports.read(idle) == {}
    assert runtime.asked == 0


async def test_a_serving_pod_is_asked_once_a_minute_and_a_starting_one_each_second(
    reports: Reports[State], runtime: Runtime, clock: Clock
) -> None:
    for clock.now in (0, 10, 50, 60):
        await reports.read([a_pod()])
    assert runtime.asked == 2
    for clock.now in (60, 60.5, 61.5):
        await reports.read([a_pod(ready=False, running=True)])
    assert runtime.asked == 4


async def test_a_pod_that_became_ready_is_asked_at_once(
    reports: Reports[State], runtime: Runtime
) -> None:
    await reports.read([a_pod(ready=False, running=True)])
    await reports.read([a_pod()])
    assert runtime.asked == 2


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"phase":"ready"}', b" " * (MAX_STATE_BYTES + 1)]
)
async def test_an_answer_that_is_no_report_is_unknown(
    reports: Reports[State], runtime: Runtime, body: bytes
) -> None:
    runtime.body = body
    assert await reports.read([a_pod()]) == {}


async def test_an_error_or_a_redirect_is_unknown(reports: Reports[State], runtime: Runtime) -> None:
    for runtime.status in (500, 302):
        assert await reports.read([a_pod()]) == {}


async def test_a_pod_that_does_not_answer_in_time_is_unknown(
    reports: Reports[State], runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pods, "TIMEOUT_S", 0.05)
    runtime.delay_s = 0.5
    assert await reports.read([a_pod()]) == {}


async def test_a_pod_that_stays_silent_is_asked_ever_more_seldom(
    reports: Reports[State], runtime: Runtime, clock: Clock
) -> None:
    runtime.status = 500
    for ready, longest_s in ((False, pods.LONGEST_PAUSE_S), (True, pods.FRESH_SERVING_S)):
        runtime.asked = 0
        for clock.now in range(600):
            await reports.read([a_pod(ready=ready, running=True)])
        assert runtime.asked <= 7 + 600 / longest_s
        runtime.status = 200
        clock.now += longest_s
        assert len(await reports.read([a_pod(ready=ready, running=True)])) == 1
        runtime.status = 500


@pytest.mark.parametrize("ready", [True, False])
async def test_a_silent_pod_is_asked_no_more_often_where_its_load_decides(
    reports: Reports[State], runtime: Runtime, clock: Clock, ready: bool
) -> None:
    runtime.status = 500
    for clock.now in range(600):
        await reports.read([a_pod(ready=ready, running=True)], fresh_s=4.0)
    assert runtime.asked <= 7 + 600 / pods.LONGEST_PAUSE_S
    runtime.status, clock.now, runtime.asked = 200, 700, 0
    for clock.now in range(700, 760):
        await reports.read([a_pod(ready=True)], fresh_s=4.0)
    assert runtime.asked >= 60 / 4


async def test_the_time_of_a_pod_begins_when_it_is_asked(
    runtime: Runtime, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pods, "TIMEOUT_S", 0.5)
    runtime.delay_s = 0.05
    app = web.Application()
    app.router.add_get("/state", runtime.state)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        lines = asyncio.Semaphore(2)
        reports = Reports(session, State, server.port or 0, clock, lines)
        many = [a_pod(name=f"chat-{number}") for number in range(40)]
        assert len(await reports.read(many)) == len(many)  # the last one waits for a second


async def test_all_pods_of_a_large_service_have_told_before_anybody_is_impatient(
    reports: Reports[State], clock: Clock
) -> None:
    many = [a_pod(name=f"chat-{number}") for number in range(500)]
    found: dict[str, State] = {}
    for clock.now in range(0, int(PATIENCE_S), int(RETRY_S)):
        found = await reports.read(many, FRESH_S)
    assert len(found) == len(many)
    read_at = [reports._read_at(pod) for pod in many]
    assert min(read_at) >= clock.now - LOOK_S  # and tell it again before the next decision


async def test_of_many_pods_only_some_are_asked_at_once_and_each_in_its_turn(
    reports: Reports[State], runtime: Runtime, clock: Clock
) -> None:
    many = [a_pod(name=f"chat-{number}") for number in range(2 * pods.MAX_AT_ONCE)]
    assert len(await reports.read(many)) == pods.MAX_AT_ONCE
    clock.now = 1
    assert len(await reports.read(many)) == len(many)
    assert runtime.asked == len(many)


async def test_a_pod_that_refuses_connections_is_unknown(runtime: Runtime) -> None:
    async with aiohttp.ClientSession() as session:
        assert await Reports(session, State, port=9).read([a_pod()]) == {}
