"""Server-sent events to one client. A client that does not read is not waited for."""

import asyncio

from aiohttp import web

WRITE_DEADLINE_S = 30.0


class ClientStalled(ConnectionError):
    """The client has not read for too long."""


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

    async def send(self, bodies: list[bytes]) -> None:
        """Send events in one write.

        Raises:
            ClientStalled: its buffers are full and stay so.
        """
        data = b"".join(b"data: " + body + b"\n\n" for body in bodies)
        try:
            async with asyncio.timeout(WRITE_DEADLINE_S):
                await self._response.write(data)
        except TimeoutError as error:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ClientStalled from error

    async def close(self) -> web.StreamResponse:
        """End the answer."""
        await self._response.write_eof()
        return self._response
