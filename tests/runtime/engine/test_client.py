import asyncio
import socket
from collections.abc import AsyncIterator

import msgspec
import pytest

from aweigh_runtime import wire
from aweigh_runtime.child import Child
from aweigh_runtime.engine.client import (
    MAX_UNREAD,
    EngineClient,
    EngineStopped,
    LeftUnread,
    RequestFailed,
    Ticket,
)
from aweigh_runtime.engine.messages import (
    Counters,
    Failure,
    KvTokens,
    Output,
    Sampling,
    Stepped,
    Submission,
    TokenLogprobs,
    Work,
)


def ask(engine: EngineClient, answers: int = 1, *, streamed: bool = False) -> Ticket:
    return engine.submit([Submission(0, [1], 5, [0], Sampling())] * answers, streamed=streamed)


def stepped(outputs: list[Output], failures: list[Failure]) -> Stepped:
    return Stepped(outputs, failures, 1, 0, 0, Counters(), KvTokens(), None, 0.01)


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
    told.feed_data(wire.frame(stepped(outputs, [failure])))
    told.feed_eof()
    await engine.watch()
    with pytest.raises(RequestFailed, match="no room") as failed:
        await pair.next()
    assert failed.value.kind == "out_of_memory"
    assert [(choice, output.tokens) for choice, output in await other.next()] == [(0, [8, 9])]
    await engine.close()


@pytest.mark.parametrize("alternatives", [0, 20])
async def test_what_nobody_takes_is_kept_up_to_a_bound_and_the_rest_not_computed(
    alternatives: int,
) -> None:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    child = await Child.start("aweigh_runtime.nothing")
    engine = EngineClient(Child(child.process, reader, writer), lambda loading: None)
    watching = asyncio.create_task(engine.watch())
    slow, other = ask(engine, streamed=True), ask(engine)
    channel = wire.Channel(theirs)
    logprobs = [TokenLogprobs(-1.0, 1, [(1, -1.0)] * alternatives)] * 8 if alternatives else None
    fitting = MAX_UNREAD // (8 * (1 + alternatives))
    for _ in range(fitting):
        outputs = [Output(slow.ids[0], [7] * 8, None, logprobs)]
        await asyncio.to_thread(channel.send, stepped(outputs, []))
    await asyncio.to_thread(channel.send, stepped([Output(other.ids[0], [7], None)], []))
    await other.next()
    assert await asyncio.to_thread(channel.poll, 0.1)
    taken = 0
    while taken < fitting * 8:
        taken += sum(len(output.tokens) for _, output in await slow.next())
    for _ in range(fitting + 1):
        outputs = [Output(slow.ids[0], [7] * 8, None, logprobs)]
        await asyncio.to_thread(channel.send, stepped(outputs, []))
    (told,) = await asyncio.to_thread(channel.poll, 5.0)
    assert msgspec.msgpack.decode(told, type=Work).aborted == slow.ids
    with pytest.raises(LeftUnread):
        await slow.next()
    theirs.close()
    await watching
    writer.close()
    await child.kill()


@pytest.mark.parametrize(("answers", "streamed"), [(1, True), (8, True), (1, False)])
async def test_as_much_may_be_unread_of_each_answer_and_whatever_is_not_streamed(
    answers: int, streamed: bool
) -> None:
    ticket = Ticket(range(answers), streamed=streamed)
    piece = [7] * (MAX_UNREAD // 4)
    for _ in range(4):
        for id in range(answers):
            ticket.push(Output(id, piece, None))
    assert not ticket.overflows
    ticket.push(Output(0, [7], None))
    assert ticket.overflows == streamed


async def test_a_backlog_comes_in_pieces_that_let_others_work() -> None:
    ticket = Ticket([1])
    for _ in range(10_000):
        ticket.push(Output(1, [7], None))
    turns = 0

    async def work() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    working = asyncio.create_task(work())
    sizes: list[int] = []
    while sum(sizes) < 10_000:
        sizes.append(len(await ticket.next()))
    working.cancel()
    assert max(sizes) <= 256
    assert turns >= len(sizes) - 1
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ticket.next(), 0.05)
