"""`aweigh bench client`: how fast the load client reads, so that nobody measures it by mistake.

A process of its own sends answers as fast as a socket takes them; here they are read and counted
in the same way as in every other measurement.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec

from aweigh_bench import machine
from aweigh_bench.endpoint import Asking, Endpoint
from aweigh_bench.failures import BenchFailure
from aweigh_bench.load import together
from aweigh_bench.measures import measure
from aweigh_bench.report import Report, Table
from aweigh_bench.traffic import Query

EVENTS_PER_WRITE = 4  # a server sends little at a time
CALIBRATION_EVENTS = 2_000
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    streams: int = 64
    seconds: float = 5.0
    command: str = "aweigh bench client"


async def run(options: Options) -> Report:
    """A short run tells how many events fill the time that was asked for."""
    async with _sender() as url, Endpoint(url) as endpoint:
        rate, _ = await _rate(endpoint, options.streams, CALIBRATION_EVENTS)
        each = max(1, int(rate * options.seconds / options.streams))
        rate, busy_percent = await _rate(endpoint, options.streams, each)
    title = f"{options.streams} answers at once, {each} events each"
    columns = ("events/s", "processor %")
    return Report(
        title="Ceiling of the load client",
        command=options.command,
        model="none",
        machine=machine.describe(),
        tables=[Table(title, columns, [(f"{rate:,.0f}", busy_percent)])],
        notes=["A server that sends more events per second than this would be measured too slow."],
        figures={"events_per_s": rate, "client_busy_percent": busy_percent},
    )


async def _rate(endpoint: Endpoint, streams: int, events: int) -> tuple[float, float]:
    load = await together(
        endpoint, Asking(model="none"), [Query([0], events)] * streams, concurrency=streams
    )
    found = measure(load.answers)
    if found.failed:
        raise BenchFailure(f"the load client failed to read: {next(iter(found.errors))}")
    return found.output_tokens / found.duration_s, load.client_busy_percent


@asynccontextmanager
async def _sender() -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "aweigh_bench.ceiling", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        port = int(await process.stdout.readline())
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        await process.wait()


async def _send() -> None:
    """The other process: answers on a free port until it is killed."""
    server = await asyncio.start_server(_answer, "127.0.0.1", 0, limit=1 << 20)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Requests of one connection, one after the other."""
    while head := await _head(reader):
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        wanted = msgspec.json.decode(await reader.readexactly(length))["max_tokens"]
        writer.write(HEAD)
        for sent in range(0, wanted, EVENTS_PER_WRITE):
            upto = min(sent + EVENTS_PER_WRITE, wanted)
            writer.write(_chunk(b"".join(map(_event, range(sent + 1, upto + 1)))))
            await writer.drain()
        writer.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    writer.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


def _event(count: int) -> bytes:
    """As large as a server's usually are."""
    return (
        b'data: {"id":"cmpl-0123456789abcdef","object":"text_completion","created":1700000000,'
        b'"model":"helmsman","choices":[{"index":0,"text":" word","finish_reason":null}],'
        b'"usage":{"prompt_tokens":1,"completion_tokens":%d,"total_tokens":%d}}\n\n'
    ) % (count, count + 1)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


if __name__ == "__main__":
    asyncio.run(_send())
