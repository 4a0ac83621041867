"""A router before two real servers: a killed one takes no answer with it."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.router.pod import SECRET, Pod
from tests.router.routing import Local, eventually, routing
from tests.router.streamed import Streamed
from tests.runtime.serving import MODEL, Served, serving

QUESTIONS = tuple(f"What is {kind}?" for kind in ("a Pod", "a Service", "a Secret", "a Job"))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Served]]:
    secret = tmp_path_factory.mktemp("secret")
    (secret / "secret").write_text(SECRET)
    flags = ("--exact", "--dtype=fp32", "--max-running=8", f"--router-secret-dir={secret}")
    with ExitStack() as stack:
        started = [
            stack.enter_context(serving(tmp_path_factory.mktemp("pod"), *flags)) for _ in range(2)
        ]
        for each in started:
            each.wait_ready()
        yield started


async def ask(local: Local, question: str, **fields: object) -> Streamed:
    body = {"model": MODEL, "max_tokens": 300, "ignore_eos": True, **fields}
    return await local.stream(question, **body)


async def test_answers_are_the_same_though_a_server_is_killed(
    tmp_path: Path, servers: list[Served]
) -> None:
    pods = [Pod(url=each.url) for each in servers]
    chosen = [{"temperature": 0}, {"temperature": 1, "seed": 7}]
    asked = [(question, fields) for question in QUESTIONS for fields in chosen]
    async with routing(tmp_path, pods, wait_seconds=60.0) as local:
        undisturbed = await asyncio.gather(*(ask(local, each, **by) for each, by in asked))
        asking = asyncio.gather(*(ask(local, each, **by) for each, by in asked))
        await eventually(lambda: _all_in_stream(local, len(asked)))
        busiest = max(local.service.dispatch.pods, key=lambda pod: pod.in_flight)
        next(each for each in servers if each.url == busiest.found.url).process.kill()
        disturbed = await asking
        resumed = local.service.metrics.text().decode()
    for one, other in zip(undisturbed, disturbed, strict=True):
        assert not other.errors
        assert other.done
        assert other.texts == one.texts
    assert 'resumed_streams_total{model_name="local"} 0.0' not in resumed


def _all_in_stream(local: Local, num_streams: int) -> bool:
    tries = [each for pod in local.service.dispatch.pods for each in pod.tries]
    return len(tries) == num_streams and all(each.owing_since_s is None for each in tries)
