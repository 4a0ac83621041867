"""Reads the bodies of requests, and bounds the memory that all of them take together.

A body is kept until its answer is complete: another pod may have to be asked.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from aweigh_http.errors import ApiError
from aweigh_router import errors

MAX_BODY_BYTES = 4 << 20
DEADLINE_S = 30.0


class Bodies:
    """Counts what has really arrived. Where there are API keys, none of them fills all of it."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held: Counter[bytes] = Counter()  # by tenant

    @property
    def held_bytes(self) -> int:
        """Of all."""
        return self._held.total()

    @asynccontextmanager
    async def read(self, request: web.Request, tenant: bytes) -> AsyncIterator[bytearray]:
        """The body; it counts until the context is left.

        Raises:
            ApiError: it is too long, too slow or compressed, or the others leave no room for it.
        """
        if "Content-Encoding" in request.headers:
            raise ApiError(415, "Content-Encoding is not supported: send the body as it is.")
        body = bytearray()
        try:
            await self._fill(body, request, tenant)
            yield body
        finally:
            self._held[tenant] -= len(body)
            if not self._held[tenant]:
                del self._held[tenant]

    async def _fill(self, body: bytearray, request: web.Request, tenant: bytes) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S):
                async for part in request.content.iter_any():
                    body += part
                    self._held[tenant] += len(part)
                    self._expect_room(len(body), tenant)
        except TimeoutError as error:
            raise ApiError(408, f"The body did not arrive within {DEADLINE_S:g} s.") from error

    def _expect_room(self, size: int, tenant: bytes) -> None:
        if size > MAX_BODY_BYTES:
            raise ApiError(413, f"The body exceeds {MAX_BODY_BYTES} bytes.")
        if self._held.total() > self._limit_bytes:
            raise errors.out_of_room(self._limit_bytes)
        if tenant and self._held[tenant] > self._limit_bytes // 2:
            raise errors.out_of_room(self._limit_bytes // 2)
