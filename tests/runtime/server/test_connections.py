"""Connections: old ones are closed, and one that nobody reads from is given up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from aweigh_runtime.config import Config
from aweigh_runtime.engine.client import EngineClient
from aweigh_runtime.server import app
from aweigh_runtime.server.openai import sse
from aweigh_runtime.server.openai.sse import ClientStalled, EventStream
from aweigh_runtime.server.service import Service


@asynccontextmanager
async def listening(application: web.Application) -> AsyncIterator[int]:
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def test_a_client_that_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "WRITE_DEADLINE_S", 0.3)
    stalled = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        stream = EventStream(request)
        await stream.open()
        try:
            while True:
                await stream.send([b"x" * 100_000])
        except ClientStalled:
            stalled.set()
            raise

    application = web.Application()
    application.router.add_get("/", endless)
    async with listening(application) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 10)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.wait_for(stalled.wait(), 10)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1 << 30)
        writer.close()


async def test_an_old_connection_is_closed_with_its_next_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(uri="builtin://none", model_name="m", cache_dir=tmp_path)
    engine = await EngineClient.start(config, lambda loading: None)
    async with (
        listening(app.application(Service(config, engine))) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        assert "Connection" not in (await client.get("/health")).headers
        monkeypatch.setattr(app, "CONNECTION_AGE_S", -1.0)
        assert "Connection" not in (await client.get("/health")).headers  # its age is drawn once
        await client.aclose()
    async with (
        listening(app.application(Service(config, engine))) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        assert (await client.get("/health")).headers["Connection"] == "close"
    await engine.close()
