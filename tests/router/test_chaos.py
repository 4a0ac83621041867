"""Pods that die, refuse and come back at random, under load: nothing is lost or left behind."""

import asyncio
import random
from pathlib import Path

from tests.router.pod import Pod, running
from tests.router.routing import Local, routing
from tests.router.test_streams import whole


async def test_nothing_is_lost_or_left_behind_whatever_pods_do(tmp_path: Path) -> None:
    draw = random.Random(5)
    pods = [Pod(revives=True, pace_s=0.01, max_running=24) for _ in range(3)]
    async with running(*pods), routing(tmp_path, pods, wait_seconds=60.0) as local:
        harming = asyncio.create_task(_harm(pods, draw))
        answered = await asyncio.gather(*(_ask(local, each, draw) for each in range(200)))
        harming.cancel()
        await asyncio.gather(harming, return_exceptions=True)
        assert all(answered)
        dispatch, state = local.service.dispatch, await local.state()
        assert (state["in_flight"], state["waiting"], local.service.bodies.held_bytes) == (0, 0, 0)
        for pod in dispatch.pods:
            assert (pod.in_flight, pod.suspects, pod.alone, pod.tries) == (0, 0, False, set())


async def _harm(pods: list[Pod], draw: random.Random) -> None:
    while True:
        await asyncio.sleep(draw.uniform(0.2, 0.8))
        pod = draw.choice(pods)
        match draw.randrange(3):
            case 0:
                await pod.restart()
            case 1:
                await pod.die()
                await asyncio.sleep(0.3)
                await pod.start()
            case 2:
                pod.refuses = True
                pod.tell()
                await asyncio.sleep(0.2)
                pod.refuses = False
                pod.tell()


async def _ask(local: Local, number: int, draw: random.Random) -> bool:
    """Whether all of an answer has come, or the error for those that saw too many pods die."""
    n, num_tokens = draw.choice([1, 1, 2, 3]), draw.randint(1, 40)
    prompt = f"{number % 30} " * draw.choice([1, 400])
    streams = draw.random() < 0.8
    await asyncio.sleep(draw.uniform(0, 4))
    if not streams:
        status, answer = await local.whole(prompt, max_tokens=num_tokens)
        return status == 200 or answer["error"]["code"] == "pods_died"
    streamed = await local.stream(prompt, n=n, max_tokens=num_tokens)
    died = [error["code"] for error in streamed.errors] == ["pods_died"]
    return died or whole(streamed, prompt, num_tokens, n)
