"""A pod that does nothing but stream, so that a router is what takes the time.

    python -m benchmarks.router.pod SECRET

Prints its port. Each stream gets events at even distances, at a phase of its own; each event bears
the time at which it was written.
"""

import asyncio
import random
import resource
import sys
import time
from typing import cast

from aweigh_api.routing import REPORT_PATH, ROOM_HEADER, SECRET_HEADER, Room

EVERY_S = 0.25
_HEAD = "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n{more}\r\n"
_ROOM = Room(boot_id="bench", phase="ready", room=100_000, running=0)
_EVENT = (
    'data: {{"id":"chatcmpl-0123456789abcdef01234567","object":"chat.completion.chunk",'
    '"created":1764000000,"model":"bench","choices":[{{"index":0,"delta":{{"content":" word"}},'
    '"finish_reason":null}}],"t":{stamp}}}\n\n'
)


class Connection(asyncio.Protocol):
    """One request, which is answered until it is gone."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._received = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        if self._timer is not None:
            return
        self._received += data
        head, found, _ = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        self._routed = f"{SECRET_HEADER}: {self._secret}".lower().encode() in head.lower()
        if REPORT_PATH.encode() in head:
            self._begin("application/x-ndjson", "")
            self._report()
        else:
            self._begin("text/event-stream", f"{ROOM_HEADER}: 100000\r\n" if self._routed else "")
            self._next_s = self._loop.time() + random.uniform(0, EVERY_S)
            self._timer = self._loop.call_at(self._next_s, self._event)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self, kind: str, more: str) -> None:
        self._transport.write(_HEAD.format(kind=kind, more=more).encode())

    def _report(self) -> None:
        self._chunk(_ROOM.model_dump_json() + "\n")
        self._timer = self._loop.call_later(1.0, self._report)

    def _event(self) -> None:
        event = _EVENT.format(stamp=time.monotonic_ns())
        self._chunk(f": tokens 0 {random.randrange(100_000)}\n{event}" if self._routed else event)
        self._next_s += EVERY_S
        self._timer = self._loop.call_at(self._next_s, self._event)

    def _chunk(self, text: str) -> None:
        self._transport.write(f"{len(text):x}\r\n{text}\r\n".encode())


async def _serve(secret: str) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(secret), "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(_serve(sys.argv[1]))
