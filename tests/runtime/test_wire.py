import asyncio
import fcntl
import resource
import socket

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aweigh_runtime import wire
from aweigh_runtime.engine.messages import Work


def bodies_of(stream: bytes, cuts: list[int]) -> list[bytes]:
    """What arrives when the stream comes in pieces."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel, bodies, at = wire.Channel(theirs), [], 0
        for cut in [*sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]:
            ours.sendall(stream[at:cut])
            bodies += channel.poll(0.0)
            at = cut
        return bodies


@given(st.lists(st.lists(st.integers(0, 2**31))), st.lists(st.integers(0, 10_000)))
def test_messages_arrive_whole_and_in_order_however_they_are_cut(
    contents: list[list[int]], cuts: list[int]
) -> None:
    messages = [Work([], content) for content in contents]
    bodies = bodies_of(b"".join(map(wire.frame, messages)), cuts)
    assert [msgspec.msgpack.decode(body, type=Work) for body in bodies] == messages


def test_a_closed_end_is_noticed() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        with pytest.raises(EOFError):
            wire.Channel(theirs).poll(None)


def test_a_high_descriptor_is_as_good_as_a_low_one() -> None:
    """A server with many connections hands its children such ones."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    ours, theirs = socket.socketpair()
    try:
        high = socket.socket(fileno=fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD, 2000))
        with ours, theirs, high:
            ours.sendall(wire.frame(Work([], [7])))
            channel = wire.Channel(high)
            assert len(channel.poll(None)) == 1
            assert channel.poll(0.0) == channel.poll(0.01) == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_message_reaches_the_event_loop_whatever_its_size() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=theirs, limit=1 << 16)
    sent = Work([], list(range(100_000)))
    with ours:
        await asyncio.to_thread(wire.Channel(ours).send, sent)
        assert msgspec.msgpack.decode(await wire.read_frame(reader), type=Work) == sent
    with pytest.raises(EOFError):
        await wire.read_frame(reader)
    writer.close()
    await writer.wait_closed()
