"""Reads the bodies of requests, and bounds the memory that all of them take together."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from aweigh_http.errors import ApiError
from aweigh_runtime.server import errors
from aweigh_runtime.server.auth import CALLER

MAX_BODY_BYTES = 4 << 20
MAX_HELD_BYTES = 64 << 20
MAX_HELD_BY_KEY = MAX_HELD_BYTES // 2
SMALL_BYTES = 16 << 10  # of any body: so much never has to find room
DEADLINE_S = 30.0


class Body:
    """What a client has sent; it counts until it is let go."""

    def __init__(self, held: Counter[bytes], caller: bytes) -> None:
        self.content = bytearray()
        self._held = held
        self._caller = caller
        self._counted = 0

    def add(self, part: bytes) -> None:
        """Some more has arrived."""
        self.content += part
        self._count(max(0, len(self.content) - SMALL_BYTES))

    def let_go(self) -> None:
        """Its text has become tokens, or an error: what is left of it is bounded by the model."""
        self.content = bytearray()
        self._count(0)

    def _count(self, counted: int) -> None:
        self._held[self._caller] += counted - self._counted
        self._counted = counted
        if not self._held[self._caller]:
            del self._held[self._caller]


BODY = web.RequestKey("body", Body)  # of a request that is being answered


class Bodies:
    """Counts what has really arrived: a client that only announces a long body takes nothing.

    Where there are API keys, none of them fills all of the room.
    """

    def __init__(self) -> None:
        self._held: Counter[bytes] = Counter()  # bytes beyond the small ones, by caller

    @asynccontextmanager
    async def read(self, request: web.Request) -> AsyncIterator[Body]:
        """The body; it counts until it is let go, or until the context is left.

        Raises:
            ApiError: it is too long, too slow or compressed, or the others leave no room for it.
        """
        if "Content-Encoding" in request.headers:
            raise ApiError(415, "Content-Encoding is not supported: send the body as it is.")
        caller = request[CALLER]
        body = request[BODY] = Body(self._held, caller)
        try:
            await self._fill(body, request, caller)
            yield body
        finally:
            body.let_go()

    async def _fill(self, body: Body, request: web.Request, caller: bytes) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S):
                async for part in request.content.iter_any():
                    body.add(part)
                    self._expect_room(len(body.content), caller)
        except TimeoutError as error:
            raise ApiError(408, f"The body did not arrive within {DEADLINE_S:g} s.") from error

    def _expect_room(self, size: int, caller: bytes) -> None:
        if size > MAX_BODY_BYTES:
            raise ApiError(413, f"The body exceeds {MAX_BODY_BYTES} bytes.")
        if size <= SMALL_BYTES:
            return
        if self._held.total() > MAX_HELD_BYTES:
            raise errors.out_of_room(MAX_HELD_BYTES)
        if caller and self._held[caller] > MAX_HELD_BY_KEY:
            raise errors.out_of_room(MAX_HELD_BY_KEY)
