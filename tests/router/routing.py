"""A router in this process, between real sockets, and a client that joins what it is sent."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from aweigh_router.lifetime import opened
from aweigh_router.service import Service
from aweigh_router.settings import Settings
from tests.router.pod import SECRET, Pod


@dataclass
class Streamed:
    """What a client got of a stream."""

    status: int
    ids: set[str] = field(default_factory=set)
    texts: dict[int, str] = field(default_factory=dict)
    finishes: dict[int, int] = field(default_factory=dict)  # by answer, how often
    errors: list[dict[str, Any]] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    done: bool = False


@dataclass
class Local:
    """A router and a client of it."""

    service: Service
    url: str
    admin_url: str
    session: aiohttp.ClientSession

    async def stream(self, prompt: str, **fields: Any) -> Streamed:
        """Ask for a stream and read all of it."""
        body = {"model": "m", "prompt": prompt, "stream": True, **fields}
        async with self.session.post(f"{self.url}/v1/completions", json=body) as response:
            streamed = Streamed(response.status)
            if response.status != 200:
                streamed.errors.append((await response.json())["error"])
                return streamed
            async for line in response.content:
                _read(streamed, line.decode().strip())
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


def _read(streamed: Streamed, line: str) -> None:
    if line.startswith(":"):
        streamed.comments.append(line)
    elif line == "data: [DONE]":
        streamed.done = True
    elif line:
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            streamed.errors.append(event["error"])
            return
        streamed.ids.add(event["id"])
        for choice in event["choices"]:
            index = choice["index"]
            streamed.texts[index] = streamed.texts.get(index, "") + choice["text"]
            if choice["finish_reason"]:
                streamed.finishes[index] = streamed.finishes.get(index, 0) + 1


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
