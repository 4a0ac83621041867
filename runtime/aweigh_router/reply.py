"""What one client gets: a whole answer, or a stream that outlives the pods it comes from."""

import asyncio
from collections.abc import Mapping

from aiohttp import web

from aweigh_http.errors import ApiError

WAITING = b": waiting\n\n"  # a comment: clients of streams skip it

_STREAM_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would hold tokens back
}


class Reply:
    """The client's side of one request. How long it may leave bytes unread its connection says."""

    def __init__(self, request: web.Request, *, streams: bool) -> None:
        self._request = request
        self._streams = streams
        self._response: web.StreamResponse | None = None

    @property
    def opened(self) -> bool:
        """Whether a stream has begun: its status is sent, and errors are events of it."""
        return self._response is not None

    async def sign_of_life(self) -> None:
        """Tell the client of a stream that it waits. Others see nothing until their answer."""
        if self._streams:
            await self.write(WAITING)

    async def write(self, events: bytes) -> None:
        """Send some more; waits while the client's buffers are full.

        Raises:
            CancelledError: the client is gone; there is nobody to answer.
        """
        try:
            if self._response is None:
                self._response = web.StreamResponse(headers=_STREAM_HEADERS)
                await self._response.prepare(self._request)
            await self._response.write(events)
        except ConnectionError:
            raise asyncio.CancelledError from None

    async def end(self) -> web.StreamResponse:
        """The stream is complete."""
        assert self._response is not None
        try:
            await self._response.write_eof()
        except ConnectionError:
            raise asyncio.CancelledError from None
        return self._response

    async def fail(self, error: ApiError) -> web.StreamResponse:
        """Nobody will answer."""
        return error.response() if self._response is None else await self._last(error.json())

    async def whole(
        self, status: int, headers: Mapping[str, str], body: bytes
    ) -> web.StreamResponse:
        """An answer in one piece; in a stream that has begun it is its last event."""
        if self._response is None:
            return web.Response(status=status, headers=headers, body=body)
        return await self._last(body)

    async def _last(self, body: bytes) -> web.StreamResponse:
        await self.write(b"data: %b\n\n" % body)
        return await self.end()
