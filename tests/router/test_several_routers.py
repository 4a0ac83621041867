"""Routers side by side before the same pods: what one of them needs, the others leave to it."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.router.pod import Pod, running
from tests.router.routing import Local, eventually, routing
from tests.router.streamed import Streamed
from tests.router.test_streams import whole


@asynccontextmanager
async def two_routers(folder: Path, pods: list[Pod]) -> AsyncIterator[list[Local]]:
    """Which start together, before pods that live."""
    async with running(*pods), AsyncExitStack() as stack:
        opened = [routing(folder, pods, wait_seconds=60.0) for _ in range(2)]
        yield [await stack.enter_async_context(each) for each in opened]


@asynccontextmanager
async def full_line(routers: list[Local], num_streams: int) -> AsyncIterator[list[Streamed]]:
    """So many streams in each, one after another; those that have ended."""
    ended: list[Streamed] = []

    async def asking(local: Local, client: int) -> None:
        for number in range(10_000):
            tokens = 4 + (client * 7 + number * 3) % 13
            ended.append(await local.stream(f"{client} {number}", max_tokens=tokens))

    tasks = [
        asyncio.create_task(asking(local, place * num_streams + each))
        for place, local in enumerate(routers)
        for each in range(num_streams)
    ]
    await eventually(lambda: all(len(local.service.dispatch.line) > 3 for local in routers))
    try:
        yield ended
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def within_10_s(streaming: Coroutine[Any, Any, Streamed]) -> Streamed:
    async with asyncio.timeout(10):
        return await streaming


async def test_a_request_for_many_answers_gets_its_turn_before_full_lines(tmp_path: Path) -> None:
    pods = [Pod(max_running=8, pace_s=0.05) for _ in range(2)]
    async with two_routers(tmp_path, pods) as routers, full_line(routers, 16) as ended:
        for number in range(2):
            asked = routers[number].stream("several", n=8, max_tokens=4)
            assert whole(await within_10_s(asked), "several", 4, n=8)
        assert all(each.whole for each in ended)


async def test_a_request_that_kills_has_nothing_beside_it_the_third_time(tmp_path: Path) -> None:
    deaths: list[int] = []
    pods = [
        Pod(dies_of="poison", revives=True, max_running=8, pace_s=0.02, deaths=deaths)
        for _ in range(3)
    ]
    async with two_routers(tmp_path, pods) as routers, full_line(routers, 24) as ended:
        killed = await within_10_s(routers[0].stream("poison", max_tokens=4))
        assert [error["code"] for error in killed.errors] == ["pods_died"]
        assert (len(deaths), deaths[-1]) == (3, 0)
        assert all(each.whole for each in ended)


async def test_whoever_was_beside_a_request_that_kills_ends_whole(tmp_path: Path) -> None:
    pods = [Pod(dies_of="poison", revives=True, max_running=24, pace_s=0.02) for _ in range(3)]
    async with two_routers(tmp_path, pods) as routers:
        beside = [
            asyncio.create_task(routers[each % 2].stream(f"p {each}", max_tokens=100))
            for each in range(60)
        ]
        await eventually(lambda: sum(pod.running for pod in pods) == len(beside))
        killed = await routers[0].stream("poison", max_tokens=4)
        assert [error["code"] for error in killed.errors] == ["pods_died"]
        async with asyncio.timeout(20):
            ended = await asyncio.gather(*beside)
    assert all(whole(each, f"p {number}", 100) for number, each in enumerate(ended))
