import asyncio
from collections.abc import AsyncIterator

import pytest

from aweigh_runtime import wire
from aweigh_runtime.child import Child
from aweigh_runtime.engine.client import EngineClient, EngineStopped, RequestFailed, Ticket
from aweigh_runtime.engine.messages import (
    Counters,
    Failure,
    KvTokens,
    Output,
    Sampling,
    Stepped,
    Submission,
)


def ask(engine: EngineClient) -> Ticket:
    return engine.submit([Submission(0, [1], 5, [0], Sampling())])


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


async def test_an_answer_that_fails_alone_fails_its_request_and_no_other() -> None:
    child = await Child.start("aweigh_runtime.nothing")
    told = asyncio.StreamReader()
    engine = EngineClient(Child(child.process, told, child.writer), lambda loading: None)
    pair = engine.submit([Submission(0, [1], 5, [0], Sampling())] * 2)
    other = ask(engine)
    failure = Failure(pair.ids[1], "out_of_memory", "no room")
    outputs = [Output(pair.ids[0], [7], None), Output(other.ids[0], [8, 9], "length")]
    told.feed_data(
        wire.frame(Stepped(outputs, [failure], 1, 0, 0, Counters(), KvTokens(), None, 0.01))
    )
    told.feed_eof()
    await engine.watch()
    with pytest.raises(RequestFailed, match="no room") as failed:
        await pair.next()
    assert failed.value.kind == "out_of_memory"
    assert [(choice, output.tokens) for choice, output in await other.next()] == [(0, [8, 9])]
    await engine.close()
