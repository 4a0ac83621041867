"""Prefixes over real servers: one with room for all, four in turn, and four behind a router."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import aiohttp

from aweigh_bench.own_server import OwnServer, own_server
from aweigh_router.lifetime import opened
from aweigh_router.settings import Settings
from benchmarks.router.prefixes import GROUPS, KEPT, PODS
from benchmarks.router.streams import SECRET

MODEL = "builtin://helmsman-8m"
PREFIX_TOKENS, OWN_TOKENS, ANSWER_TOKENS = 1920, 16, 8
WARM_UP, REQUESTS = 240, 480
AT_ONCE = 12
TOKEN_BYTES = 4096  # of keys and values in bf16
_VOCABULARY = range(100, 8000)
_SAMPLE_S = 0.2


@dataclass(frozen=True)
class Measured:
    """Of one way."""

    hit_rate: float  # of prompt tokens
    busiest: float  # time-mean of running answers of the busiest pod ÷ the mean of all


async def one_pod(folder: Path) -> Measured:
    """With room for all."""
    async with _servers(1, GROUPS + 2, folder) as servers:
        return await _measured(servers, [servers[0].base_url])


async def service(folder: Path) -> Measured:
    """Requests go to pods in turn."""
    async with _servers(PODS, KEPT, folder) as servers:
        return await _measured(servers, [server.base_url for server in servers])


async def router(folder: Path) -> Measured:
    """As a router chooses."""
    async with _servers(PODS, KEPT, folder) as servers:
        urls = tuple(server.base_url.removesuffix("/v1") for server in servers)
        settings = Settings(pod=urls, port=0, admin_port=0, router_secret_dir=folder)
        async with opened(settings) as routed:
            return await _measured(servers, [f"http://127.0.0.1:{routed.port}/v1"])


@asynccontextmanager
async def _servers(count: int, prefixes: int, folder: Path) -> AsyncIterator[list[OwnServer]]:
    (folder / "secret").write_text(SECRET)
    kept = prefixes * PREFIX_TOKENS * TOKEN_BYTES
    flags = (
        f"--prefix-cache-size={kept}",
        f"--kv-cache-memory={kept + AT_ONCE * 2048 * TOKEN_BYTES}",
        f"--router-secret-dir={folder}",
        "--device=cpu",
        "--dtype=bf16",
    )
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(own_server(MODEL, flags, threads=1))
            for _ in range(count)
        ]


async def _measured(servers: Sequence[OwnServer], urls: Sequence[str]) -> Measured:
    draw, turns = random.Random(11), itertools.cycle(urls)
    prefixes = [draw.choices(_VOCABULARY, k=PREFIX_TOKENS) for _ in range(GROUPS)]
    popularity = [1 / (rank + 1) for rank in range(GROUPS)]
    chosen = draw.choices(prefixes, popularity, k=WARM_UP + REQUESTS)
    prompts = [prefix + draw.choices(_VOCABULARY, k=OWN_TOKENS) for prefix in chosen]
    async with aiohttp.ClientSession() as session:
        await _ask_all(session, turns, prompts[:WARM_UP])
        before = await _tokens(servers)
        samples: list[list[int]] = []
        watching = asyncio.create_task(_watch(servers, samples))
        await _ask_all(session, turns, prompts[WARM_UP:])
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    cached, computed = (
        now - then for now, then in zip(await _tokens(servers), before, strict=True)
    )
    means = [mean(load) for load in zip(*samples, strict=True)]
    return Measured(cached / (cached + computed), max(means) / mean(means))


async def _watch(servers: Sequence[OwnServer], samples: list[list[int]]) -> None:
    """What each of them runs, again and again."""
    while True:
        states = await asyncio.gather(*(server.state() for server in servers))
        samples.append([state["running"] for state in states])
        await asyncio.sleep(_SAMPLE_S)


async def _tokens(servers: Sequence[OwnServer]) -> tuple[int, int]:
    """Cached and computed, of all."""
    states = [await server.state() for server in servers]
    names = ("cached_prompt_tokens", "computed_prompt_tokens")
    cached, computed = (sum(state[name] for state in states) for name in names)
    return cached, computed


async def _ask_all(
    session: aiohttp.ClientSession, turns: "itertools.cycle[str]", prompts: list[list[int]]
) -> None:
    left = iter(prompts)

    async def ask() -> None:
        for prompt in left:
            body = {
                "model": MODEL.rpartition("/")[2],
                "prompt": prompt,
                "max_tokens": ANSWER_TOKENS,
                "ignore_eos": True,
            }
            url = f"{next(turns)}/completions"
            async with session.post(url, json=body, raise_for_status=True) as response:
                await response.read()

    await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
