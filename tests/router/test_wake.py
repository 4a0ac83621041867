"""What a router says to the operator, heard by the operator itself."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from aweigh_operator.observe import Key, Pod, pod_of
from aweigh_operator.routers import Routers
from tests.operator import fakes
from tests.operator.fakes import KEY
from tests.router.routing import routing


def seen(admin_url: str) -> tuple[Pod, int]:
    """The router's pod as the operator knows it, and its admin port."""
    address = urlsplit(admin_url)
    return pod_of(fakes.pod("chat-router-1", ready=True, podIP=address.hostname)), address.port or 0


async def test_a_request_that_waits_for_a_first_pod_wakes_the_service(tmp_path: Path) -> None:
    woken: asyncio.Queue[Key] = asyncio.Queue()
    async with routing(tmp_path, ()) as router, aiohttp.ClientSession() as session:
        pod, port = seen(router.admin_url)
        routers = Routers(session, woken.put_nowait, port)
        before = (await routers.read([pod], None))[pod.uid]
        assert (before.arrived_requests, before.waiting, before.in_flight) == (0, 0, 0)
        routers.listen(KEY, [pod])
        body = {"model": "m", "prompt": "hello", "max_tokens": 3}
        asked = asyncio.create_task(session.post(f"{router.url}/v1/completions", json=body))
        async with asyncio.timeout(10):
            assert await woken.get() == KEY
        (after,) = (await routers.read([pod], 60.0)).values()
        assert (after.arrived_requests, after.waiting) == (1, 1)
        assert after.boot_id == before.boot_id
        routers.forget()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
