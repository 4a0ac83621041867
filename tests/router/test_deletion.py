"""An InferenceService is deleted: routers are told to end, and the list of its pods goes."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from aweigh_router.lifetime import run
from aweigh_router.settings import Settings
from tests.router.api_server import Lists, endpoints
from tests.router.pod import Pod, running
from tests.router.routing import eventually
from tests.router.streamed import Streamed


@asynccontextmanager
async def router() -> AsyncIterator[str]:
    """Its URL. Leaving waits for its end."""
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    settings = Settings(
        namespace="ns", pods_service="chat-pods", port=0, admin_port=0, drain_settle_seconds=0.5
    )
    ends = asyncio.create_task(run(settings, lambda port, _: ready.set_result(port)))
    yield f"http://127.0.0.1:{await ready}"
    async with asyncio.timeout(20):
        await ends


def end() -> None:
    """As a kubelet does."""
    os.kill(os.getpid(), signal.SIGTERM)


async def whole(session: aiohttp.ClientSession, url: str) -> tuple[int, dict[str, Any]]:
    body = {"model": "m", "prompt": "hello"}
    async with session.post(f"{url}/v1/completions", json=body) as response:
        return response.status, (await response.json())["error"]


@pytest.mark.parametrize("told", ["to end first", "to end last"])
async def test_who_waits_for_a_first_pod_is_told_that_none_will_come(
    lists: Lists, told: str
) -> None:
    without_pods = endpoints("s1", 7)
    lists.items = [without_pods]
    streamed = Streamed()

    def delete() -> None:
        lists.events.put_nowait({"type": "DELETED", "object": without_pods})

    first, last = (end, delete) if told == "to end first" else (delete, end)
    async with aiohttp.ClientSession() as session, router() as url:
        asking = asyncio.gather(
            whole(session, url), streamed.read(session, url, {"model": "m", "prompt": "hello"})
        )
        await eventually(lambda: streamed.comments)
        first()
        await asyncio.sleep(0.2)
        assert not asking.done()  # a router that is replaced may still get a pod
        last()
        async with asyncio.timeout(10):
            (status, error), _ = await asking
    assert (status, error["code"]) == (503, "no_pods")
    assert "has been deleted" in error["message"]
    assert streamed.errors == [error]


async def test_what_a_pod_computes_is_finished(lists: Lists) -> None:
    pod, streamed = Pod(pace_s=0.05), Streamed()
    async with running(pod), aiohttp.ClientSession() as session:
        ready = endpoints("s1", 7, a=True)
        ready["ports"][0]["port"] = int(pod.url.rpartition(":")[2])
        ready["endpoints"][0]["addresses"] = ["127.0.0.1"]
        lists.items = [ready]
        async with router() as url:
            body = {"model": "m", "prompt": "hello", "max_tokens": 40}
            asking = asyncio.create_task(streamed.read(session, url, body))
            await eventually(lambda: streamed.texts)
            lists.events.put_nowait({"type": "DELETED", "object": ready})
            end()
            await asking
    assert streamed.whole
