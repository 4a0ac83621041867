"""A router in this process, between real sockets, and a client of it."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from aweigh_router.lifetime import opened
from aweigh_router.service import Service
from aweigh_router.settings import Settings
from tests.router.pod import SECRET, Pod
from tests.router.streamed import Streamed


@dataclass
class Local:
    """A router and a client of it."""

    service: Service
    url: str
    admin_url: str
    session: aiohttp.ClientSession

    async def stream(self, prompt: str, **fields: Any) -> Streamed:
        """Ask for a stream and read all of it."""
        body = {"model": "m", "prompt": prompt, **fields}
        streamed = Streamed()
        await streamed.read(self.session, self.url, body)
        return streamed

    async def whole(self, prompt: str, **fields: Any) -> tuple[int, dict[str, Any]]:
        """Ask for an answer in one piece."""
        body = {"model": "m", "prompt": prompt, **fields}
        async with self.session.post(f"{self.url}/v1/completions", json=body) as response:
            return response.status, await response.json()

    async def state(self) -> dict[str, Any]:
        """The router's report."""
        async with self.session.get(f"{self.admin_url}/state") as response:
            state: dict[str, Any] = await response.json()
            return state


async def eventually(holds: Callable[[], object]) -> None:
    """Wait until it does."""
    async with asyncio.timeout(20):
        for _ in itertools.count():
            if holds():
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def routing(folder: Path, pods: Iterable[Pod], **settings: Any) -> AsyncIterator[Local]:
    """A router in front of these pods."""
    secret = folder / "router-secret"
    secret.mkdir(exist_ok=True)
    (secret / "secret").write_text(SECRET)
    chosen = Settings(
        pod=tuple(pod.url for pod in pods),
        port=0,
        admin_port=0,
        **{"wait_seconds": 20.0, "router_secret_dir": secret, **settings},
    )
    async with (
        opened(chosen) as router,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        yield Local(
            router.service,
            f"http://127.0.0.1:{router.port}",
            f"http://127.0.0.1:{router.admin_port}",
            session,
        )
