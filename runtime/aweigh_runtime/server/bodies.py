"""Reads the bodies of requests, and bounds the memory that all of them take together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from aweigh_runtime.server import errors
from aweigh_runtime.server.errors import ApiError

MAX_BODY_BYTES = 4 << 20
MAX_HELD_BYTES = 64 << 20
DEADLINE_S = 30.0


class Bodies:
    """Counts what has really arrived: a client that only announces a long body takes nothing."""

    def __init__(self) -> None:
        self._held_bytes = 0

    @asynccontextmanager
    async def read(self, request: web.Request) -> AsyncIterator[bytearray]:
        """The body; it counts until its request has been answered, for so long it is referred to.

        Raises:
            ApiError: it is too long, too slow or compressed, or the others leave no room for it.
        """
        if "Content-Encoding" in request.headers:
            raise ApiError(415, "Content-Encoding is not supported: send the body as it is.")
        body = bytearray()
        try:
            await self._fill(body, request)
            yield body
        finally:
            self._held_bytes -= len(body)

    async def _fill(self, body: bytearray, request: web.Request) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S):
                async for part in request.content.iter_any():
                    body += part
                    self._held_bytes += len(part)
                    self._expect_room(len(body))
        except TimeoutError as error:
            raise ApiError(408, f"The body did not arrive within {DEADLINE_S:g} s.") from error

    def _expect_room(self, size: int) -> None:
        if size > MAX_BODY_BYTES:
            raise ApiError(413, f"The body exceeds {MAX_BODY_BYTES} bytes.")
        if self._held_bytes > MAX_HELD_BYTES:
            raise errors.out_of_room(MAX_HELD_BYTES)
