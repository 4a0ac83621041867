"""Listening to pods: whatever they say, and for as long as it matters."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from aweigh_api.routing import REPORT_PATH, Room
from aweigh_router import rooms
from aweigh_router.asked import Asked
from aweigh_router.calls import Call
from aweigh_router.dispatch import Dispatch
from aweigh_router.line import Line
from aweigh_router.pod_client import PodClient, Secret
from aweigh_router.reports import Reports
from aweigh_router.rooms import Found, Pods
from tests.router.pod import SECRET, Pod, running
from tests.router.routing import eventually

LINE = Room(boot_id="b", phase="ready", room=9, running=0).model_dump_json().encode() + b"\n"


class Listening:
    """What listens, and what it tells."""

    def __init__(self, client: PodClient) -> None:
        self.dispatch = Dispatch(Line(9), Pods(), time.monotonic)
        self.reports = Reports(self.dispatch, client)

    def follow(self, *urls: str) -> None:
        self.reports.follow(Found(url, url, ready=True) for url in urls)

    @property
    def heard(self) -> bool:
        """Whether the one pod takes requests."""
        return bool(self.dispatch.pods.taking(time.monotonic()))


@pytest.fixture
async def listening(tmp_path: Path) -> AsyncIterator[Listening]:
    (tmp_path / "secret").write_text(SECRET)
    async with PodClient(Secret(tmp_path), None) as client:
        found = Listening(client)
        yield found
        await found.reports.close()


async def test_a_pod_that_is_gone_is_listened_to_until_its_last_answer(
    listening: Listening,
) -> None:
    pod = Pod()
    async with running(pod):
        listening.follow(pod.url)
        await eventually(lambda: listening.heard)
        (known,) = listening.dispatch.pods
        attempt = Call(b"", 0.0, asked=Asked(num_answers=1))
        rooms.begin(known, attempt)
        listening.follow()
        for _ in range(2):  # it may break off, as long as it begins again
            await pod.restart()
            await eventually(lambda: known.boot_id == pod.boot_id)
        rooms.end(known, attempt, 0.0)
        pod.tell()
        await eventually(lambda: pod.url not in {t.get_name() for t in asyncio.all_tasks()})


async def test_a_pod_that_is_gone_and_answers_nothing_is_not_listened_to(
    listening: Listening,
) -> None:
    pod = Pod()
    async with running(pod):
        listening.follow(pod.url)
        await eventually(lambda: listening.heard)
        listening.follow()
        await eventually(lambda: pod.url not in {t.get_name() for t in asyncio.all_tasks()})


async def test_a_line_that_is_too_long_does_not_end_listening(listening: Listening) -> None:
    asked = 0

    async def report(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x" * 1_000_000 if asked == 1 else LINE)
        await asyncio.Event().wait()
        return response

    app = web.Application()
    app.router.add_get(REPORT_PATH, report)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    listening.follow(f"http://127.0.0.1:{runner.addresses[0][1]}")
    await eventually(lambda: listening.heard)
    await runner.cleanup()


async def test_a_failure_of_our_own_is_logged_and_listening_goes_on(
    listening: Listening, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = iter([True])

    def match() -> None:
        if next(fails, False):
            raise ZeroDivisionError

    pod = Pod()
    async with running(pod):
        listening.follow(pod.url)
        monkeypatch.setattr(listening.dispatch, "match", match)
        with caplog.at_level(logging.WARNING, "aweigh.router"):
            await eventually(lambda: "ZeroDivisionError" in caplog.text)
            await eventually(lambda: listening.heard)
