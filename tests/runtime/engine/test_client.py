import asyncio
from collections.abc import AsyncIterator

import pytest

from aweigh_runtime.child import Child
from aweigh_runtime.engine.client import EngineClient, EngineStopped, Ticket
from aweigh_runtime.engine.messages import Sampling


def ask(engine: EngineClient) -> Ticket:
    return engine.submit([[1]], [5], [0], [Sampling()])


@pytest.fixture
async def engine() -> AsyncIterator[EngineClient]:
    """Before a process that has ended at once."""
    child = await Child.start("aweigh_runtime.nothing")
    await child.process.wait()
    yield (client := EngineClient(child, lambda loading: None))
    await client.close()


async def test_what_comes_after_the_end_fails_like_what_was_open(engine: EngineClient) -> None:
    opened = ask(engine)
    engine.refuse(LookupError("gone"))
    with pytest.raises(LookupError, match="gone"):
        await opened.next()
    with pytest.raises(LookupError, match="gone"):
        ask(engine)


async def test_what_comes_after_a_silence_is_taken(engine: EngineClient) -> None:
    opened = ask(engine)
    engine.fail_open(LookupError("silent"))
    with pytest.raises(LookupError, match="silent"):
        await opened.next()
    later = ask(engine)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(later.next(), 0.05)


async def test_an_engine_that_ends_without_a_word_is_a_bug(engine: EngineClient) -> None:
    stopped = await engine.watch()
    assert isinstance(stopped, EngineStopped)
    assert stopped.exit_code == 70
    assert "exit code 1" in stopped.termination.message
