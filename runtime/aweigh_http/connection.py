"""One client's connection: HTTP/1.1, and how long everything may take. It knows no route."""

import asyncio
import random
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from aiohttp import web

from aweigh_http import errors

SERVER = "aweigh"  # not which version of what else
_BYTES_ACKED = struct.Struct("120xQ")  # of Linux's tcp_info


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a client may take; more, and it is cut off."""

    head_s: float = 10.0  # from the first byte of a request to the end of its headers
    idle_s: float = 60.0  # without a request
    stall_s: float = 30.0  # in which a quarter of the write buffer is taken of what was sent
    age_s: float = 60.0  # half to one and a half times that, so that new servers get some
    connections: int = 20_000
    files: int = 1  # that one of them needs
    write_buffer_bytes: int = 64 << 10  # TLS would take 512 KiB
    send_buffer_bytes: int = 128 << 10  # in the kernel; grown on demand it takes 4 MiB


class Alarm:
    """Does something later, unless it is called off."""

    __slots__ = ("_handle", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None

    @property
    def is_set(self) -> bool:
        """Nobody has called it off."""
        return self._handle is not None

    def set(self, delay_s: float, action: Callable[[], None]) -> None:
        """Once; an alarm that is set stays as it is."""
        if self._handle is None:
            self._handle = self._loop.call_later(delay_s, action)

    def call_off(self) -> None:
        """It may be set again."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class Connection(web.RequestHandler):
    """aiohttp's connection with the limits that it lacks."""

    __slots__ = ("_ended", "_head", "_limits", "_old_at_s", "_socket", "_stall", "_taken", "_wire")

    def __init__(self, server: web.Server, limits: Limits) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=limits.idle_s,
            access_log=None,  # type: ignore[arg-type]  # its type forgets what its code allows
        )
        self._limits = limits
        self._old_at_s = loop.time() + limits.age_s * random.uniform(0.5, 1.5)
        self._head = Alarm(loop)
        self._stall = Alarm(loop)
        self._taken = 0  # what the client had taken when the alarm was set
        self._wire: asyncio.Transport | None = None  # as long as it is open, however it ends
        self._socket: socket.socket | None = None  # its
        self._ended = False

    @property
    def old(self) -> bool:
        """Its next answer should be its last."""
        return self._loop.time() > self._old_at_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        super().connection_made(transport)
        self._wire = self.transport
        assert self._wire is not None
        self._socket = self._wire.get_extra_info("socket")
        self._wire.set_write_buffer_limits(self._limits.write_buffer_bytes)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client is gone."""
        self._wire = None
        self._head.call_off()
        self._stall.call_off()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come. A request that has begun must have all its headers soon."""
        super().data_received(data)
        if self._waiter is None or self._waiter.done():  # a request is there
            self._head.call_off()
        elif data:
            self._head.set(self._limits.head_s, self.force_close)

    def pause_writing(self) -> None:
        """The client does not read as fast as we write: buffers are full."""
        super().pause_writing()
        self._expect_progress()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._stall.call_off()
        if self._ended:
            self._expect_progress()

    async def start(self) -> None:
        """Serve its requests; then it must take what is still on its way."""
        try:
            await super().start()
        finally:
            self._ended = True
            self._expect_progress()

    def _expect_progress(self) -> None:
        if self._wire is not None and not self._stall.is_set:
            self._taken = self._now_taken()
            self._stall.set(self._limits.stall_s, self._look)

    def _look(self) -> None:
        """A client may be slow, if only it takes something worth a place each time."""
        self._stall.call_off()
        if self._wire is None:
            return
        taken = self._now_taken()
        emptied = taken == 0 and self._taken < 0
        if emptied or taken - self._taken >= self._limits.write_buffer_bytes // 4:
            self._expect_progress()
        else:
            self._wire.abort()

    def _now_taken(self) -> int:
        """Grows by the bytes that the client takes. Of what waits here TLS hides a part."""
        assert self._socket is not None
        assert self._wire is not None
        acked = 0
        with suppress(AttributeError, OSError, struct.error):  # not Linux
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.size)
            (acked,) = _BYTES_ACKED.unpack(info)
        return acked or -self._wire.get_write_buffer_size()  # old kernels leave it 0

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is not HTTP, in a sentence of ours."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has already begun")
        response = (errors.not_http() if status == 400 else errors.internal()).response()
        response.headers["Server"] = SERVER
        response.force_close()
        return response
