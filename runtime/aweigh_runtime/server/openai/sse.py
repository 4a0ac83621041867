"""Server-sent events to one client. How long it may leave them unread, its connection decides."""

from aiohttp import web


def event(body: bytes, comments: bytes = b"") -> bytes:
    """One event; comments are whole lines before it, which no client takes for a part of it."""
    return comments + b"data: " + body + b"\n\n"


class EventStream:
    """The open answer to one request."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",  # nginx would hold tokens back
            }
        )

    async def open(self) -> None:
        """Send the headers."""
        await self._response.prepare(self._request)

    async def send(self, events: list[bytes]) -> None:
        """Send events in one write; waits while the client's buffers are full."""
        await self._response.write(b"".join(events))

    async def close(self) -> web.StreamResponse:
        """End the answer."""
        await self._response.write_eof()
        return self._response
