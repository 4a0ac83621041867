"""Clients that ask all at once, each over a connection of its own, and what routers say."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from aweigh_api import names
from aweigh_api.router_state import RouterState
from tests.e2e.services import Service
from tests.router.streamed import Streamed

ANSWER_S = 300.0
_RESUMED = "aweigh_router_resumed_streams_total{"

Body = dict[str, Any]


class Crowd:
    """Clients of one InferenceService that has routers."""

    def __init__(self, service: Service, url: str, session: aiohttp.ClientSession) -> None:
        self._service = service
        self._url = url
        self._session = session

    async def read(self, streamed: Streamed, body: Body) -> None:
        """Stream one answer.

        Raises:
            aiohttp.ClientError: there is no connection, or it breaks off.
        """
        await streamed.read(self._session, self._url, body)

    async def ask(self, streams: list[Streamed], bodies: list[Body]) -> None:
        """Stream all of them."""
        await asyncio.gather(*map(self.read, streams, bodies))

    async def states(self) -> dict[str, RouterState]:
        """What each router reports, by the name of its pod."""
        return {
            pod["metadata"]["name"]: RouterState.model_validate_json(
                await self._admin(pod, "/state")
            )
            for pod in self._service.routers()
        }

    async def waiting(self) -> int:
        """Requests that no pod has taken yet."""
        return sum(state.waiting or 0 for state in (await self.states()).values())

    async def resumed(self) -> int:
        """Streams that a second pod went on with, so far."""
        texts = [await self._admin(pod, "/metrics") for pod in self._service.routers()]
        lines = [line for text in texts for line in text.splitlines() if line.startswith(_RESUMED)]
        return sum(round(float(line.rpartition(" ")[2])) for line in lines)

    async def _admin(self, pod: dict[str, Any], path: str) -> str:
        url = f"http://{pod['status']['podIP']}:{names.ADMIN_PORT}{path}"
        async with self._session.get(url) as response:
            return await response.text()


@asynccontextmanager
async def crowd(service: Service) -> AsyncIterator[Crowd]:
    """Clients of the Service."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=ANSWER_S)
    with service.cluster.endpoint(service.namespace, service.name, 8000) as url:
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            yield Crowd(service, url, session)


async def all_begun(streams: list[Streamed]) -> None:
    """Until each of them has brought something. None may have ended by then."""

    async def begun() -> bool:
        return all(each.first_s for each in streams)

    await until(begun, ANSWER_S)
    assert not any(each.done for each in streams), "some ended before all had begun"


async def until(holds: Callable[[], Awaitable[bool]], timeout_s: float) -> float:
    """Until it does; seconds."""
    began_s = time.monotonic()
    async with asyncio.timeout(timeout_s):
        while True:
            if await holds():
                return time.monotonic() - began_s
            await asyncio.sleep(0.02)
