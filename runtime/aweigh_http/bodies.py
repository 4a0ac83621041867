"""Reads the bodies of requests, and bounds the memory that all of them take together."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from aweigh_http import errors
from aweigh_http.errors import ApiError

MAX_BODY_BYTES = 4 << 20
DEADLINE_S = 30.0


class Body:
    """What a client has sent; it counts until it is let go."""

    def __init__(self, held: Counter[bytes], owner: bytes, small_bytes: int) -> None:
        self.content = bytearray()
        self._held = held
        self._owner = owner
        self._small_bytes = small_bytes
        self._counted = 0

    def add(self, part: bytes) -> None:
        """Some more has arrived."""
        self.content += part
        self._count(max(0, len(self.content) - self._small_bytes))

    def let_go(self) -> None:
        """It is not needed any more."""
        self.content = bytearray()
        self._count(0)

    def _count(self, counted: int) -> None:
        self._held[self._owner] += counted - self._counted
        self._counted = counted
        if not self._held[self._owner]:
            del self._held[self._owner]


BODY = web.RequestKey("body", Body)  # of a request that is being answered


class Bodies:
    """Counts what has really arrived: a client that only announces a long body takes nothing.

    Where there are API keys, none of them fills more than half of the room.
    """

    def __init__(self, limit_bytes: int, small_bytes: int = 0) -> None:
        """All together have `limit_bytes`; so many of any body never have to find room."""
        self._limit_bytes = limit_bytes
        self._small_bytes = small_bytes
        self._held: Counter[bytes] = Counter()  # bytes beyond the small ones, by owner

    @property
    def held_bytes(self) -> int:
        """Of all, beyond the small ones."""
        return self._held.total()

    @asynccontextmanager
    async def read(
        self, request: web.Request, owner: bytes, spare_bytes: int = 0
    ) -> AsyncIterator[Body]:
        """The body; it counts until it is let go, or until the context is left.

        Args:
            request: whose body it is.
            owner: whose key it came with; empty: nobody's.
            spare_bytes: that it may have beyond what a client may send.

        Raises:
            ApiError: it is too long, too slow or compressed, or the others leave no room for it.
        """
        if "Content-Encoding" in request.headers:
            raise ApiError(415, "Content-Encoding is not supported: send the body as it is.")
        body = request[BODY] = Body(self._held, owner, self._small_bytes)
        try:
            await self._fill(body, request, owner, MAX_BODY_BYTES + spare_bytes)
            yield body
        finally:
            body.let_go()

    async def _fill(self, body: Body, request: web.Request, owner: bytes, limit_bytes: int) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S):
                async for part in request.content.iter_any():
                    body.add(part)
                    if len(body.content) > limit_bytes:
                        raise ApiError(413, f"The body exceeds {limit_bytes} bytes.")
                    self._expect_room(len(body.content), owner)
        except TimeoutError as error:
            raise ApiError(408, f"The body did not arrive within {DEADLINE_S:g} s.") from error

    def _expect_room(self, size: int, owner: bytes) -> None:
        if size <= self._small_bytes:
            return
        if self._held.total() > self._limit_bytes:
            raise errors.out_of_room(self._limit_bytes)
        if owner and self._held[owner] > self._limit_bytes // 2:
            raise errors.out_of_room(self._limit_bytes // 2)
