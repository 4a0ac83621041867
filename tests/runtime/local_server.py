"""What the local servers of the tests share: real HTTP in a thread, and faults on request."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

from aiohttp import web

PIECE_BYTES = 64 << 10


@dataclass
class Faults:
    """What goes wrong. Tests set it; each entry of a list happens once."""

    statuses: list[int] = field(default_factory=list)  # answers to the next requests
    every_status: int | None = None  # answer to all requests
    retry_after: str | None = None  # header of those answers
    break_after: dict[str, list[int]] = field(default_factory=dict)  # file → bytes of each answer
    corrupt: set[str] = field(default_factory=set)  # files with one byte changed on the way
    no_ranges: bool = False
    piece_delay_s: float = 0.0  # before each piece of a file
    silent: bool = False  # takes requests and never answers


@dataclass(frozen=True)
class Seen:
    """A request that arrived."""

    host: str
    path: str
    range: str | None
    authorization: str | None


class LocalServer:
    """A server in a thread of its own while the context is open."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.faults = Faults()
        self.seen: list[Seen] = []
        self._host = host
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"{self._host}:{self._port}"

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://{self.address}"

    def paths(self) -> list[str]:
        """Paths of the requests that arrived."""
        return [request.path for request in self.seen]

    def routes(self, app: web.Application) -> None:
        """What a server answers to; each kind has its own."""
        raise NotImplementedError

    def refusal(self, status: int) -> web.Response:
        """An answer with an error, as this kind of server words it."""
        return web.Response(status=status)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application(middlewares=[self._interfere])
        self.routes(app)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()
        self._port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        await self._runner.cleanup()
        left = asyncio.all_tasks() - {asyncio.current_task()}  # those that never answer
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    @web.middleware
    async def _interfere(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        headers = request.headers
        self.seen.append(
            Seen(request.host, request.path, headers.get("Range"), headers.get("Authorization"))
        )
        if self.faults.silent:
            await asyncio.sleep(3600)
        status = self.faults.every_status
        if status is None and self.faults.statuses:
            status = self.faults.statuses.pop(0)
        if status is None:
            return await handler(request)
        response = self.refusal(status)
        if self.faults.retry_after is not None:
            response.headers["Retry-After"] = self.faults.retry_after
        return response

    async def send(
        self, request: web.Request, name: str, content: bytes, etag: str | None = None
    ) -> web.StreamResponse:
        """A file's bytes, or the range of them that is asked for, with the faults for it."""
        if name in self.faults.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        asked = slice(None) if self.faults.no_ranges else request.http_range
        start, end = asked.start or 0, min(asked.stop or len(content), len(content))
        if start > len(content):
            return web.Response(status=416)
        partial = start > 0 or end < len(content) or (asked.start == 0 and etag is not None)
        response = web.StreamResponse(status=206 if partial else 200)
        response.content_length = end - start
        if partial:
            response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        if etag is not None:
            response.headers["ETag"] = etag
            response.headers["Last-Modified"] = "Mon, 05 Jan 2026 10:00:00 GMT"
        await response.prepare(request)
        breaks = self.faults.break_after.get(name)
        stop = start + breaks.pop(0) if breaks else end
        for begin in range(start, min(stop, end), PIECE_BYTES):
            await asyncio.sleep(self.faults.piece_delay_s)
            await response.write(content[begin : min(begin + PIECE_BYTES, stop, end)])
        if stop < end and request.transport is not None:
            request.transport.close()
        return response
