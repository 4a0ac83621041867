"""How long the prompts may be that wait, all together."""

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from aweigh_runtime.server import waiting_prompts
from tests.runtime.server.local import ready
from tests.runtime.serving import MODEL


async def test_long_prompts_that_wait_are_refused_before_their_number_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_prompts, "MAX_TOKENS", 3000)
    async with (
        ready(tmp_path, max_running=8) as local,
        httpx.AsyncClient(base_url=local.url, timeout=60) as client,
    ):

        def ask(tokens: int, **fields: Any) -> asyncio.Task[httpx.Response]:
            body = {"model": MODEL, "prompt": [7] * tokens, "max_tokens": 1, **fields}
            return asyncio.create_task(client.post("/v1/completions", json=body))

        async def until(waiting: int, running: int) -> None:
            end_s, stepped = time.monotonic() + 30, local.service.engine
            while (stepped.stepped.waiting, stepped.stepped.running) != (waiting, running):
                assert time.monotonic() < end_s
                await asyncio.sleep(0.01)

        runs = ask(140, n=8, max_tokens=1900, ignore_eos=True)  # for long, as they are eight
        await until(waiting=0, running=8)
        await asyncio.sleep(0.3)  # it has begun: its prompt waits no more
        waits = ask(1900)
        await until(waiting=1, running=8)
        refused = await ask(1110)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "overloaded"
        assert int(refused.headers["Retry-After"]) >= 1
        assert local.service.figures.num_turned_away == 1
        left = ask(1000)
        await until(waiting=2, running=8)
        left.cancel()  # what nobody wants any more leaves its room to others
        await until(waiting=1, running=8)
        fits = ask(1000)
        await until(waiting=2, running=8)
        runs.cancel()
        assert [(await each).status_code for each in (waits, fits)] == [200, 200]
        assert [(await each).status_code for each in (ask(1900), ask(1000))] == [200, 200]
