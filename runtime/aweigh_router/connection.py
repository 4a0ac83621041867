"""One client's connection, and the ports that connections come to. It knows no route.

As a pod's: clients that send headers slowly, or do not read, hold nothing for long.
"""

import asyncio
import random
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import http_parser, web

from aweigh_api.certificate import Certificate
from aweigh_router.errors import ApiError

WRITE_BUFFER_BYTES = 16 << 10  # of one client; what is beyond waits in its pod
SERVER = "aweigh"
_SEND_BUFFER_BYTES = 64 << 10  # in the kernel, for each client
_SPARE_FILES = 512  # for pods' connections and all else that is no client's
_CLOSING_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a client may take; more, and it is cut off."""

    head_s: float = 10.0  # from the first byte of a request to the end of its headers
    idle_s: float = 60.0  # without a request
    stall_s: float = 30.0  # not reading what was sent
    age_s: float = 60.0  # half to one and a half times that, so that new routers get connections


class Connection(web.RequestHandler):
    """aiohttp's connection with the limits that it lacks."""

    __slots__ = ("_alarm", "_ended", "_limits", "_old_at_s", "_wire")

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
        self._alarm: asyncio.TimerHandle | None = None  # for headers or for reading
        self._wire: asyncio.Transport | None = None  # as long as it is open, however it ends
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
        self._wire.set_write_buffer_limits(WRITE_BUFFER_BYTES)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client is gone."""
        self._wire = None
        self._call_off()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come. A request that has begun must have all its headers soon."""
        super().data_received(data)
        if self._waiter is None or self._waiter.done():  # a request is there
            self._call_off()
        elif data:
            self._set(self._limits.head_s, self.force_close)

    def pause_writing(self) -> None:
        """The client does not read as fast as we write."""
        super().pause_writing()
        self._expect_progress()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._call_off()
        if self._ended:
            self._expect_progress()

    async def start(self) -> None:
        """Serve its requests; then it must take what is still on its way."""
        try:
            await super().start()
        finally:
            self._ended = True
            self._expect_progress()

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
        malformed = "its line or headers are malformed or too long."
        response = ApiError(400, f"This is not a valid HTTP/1.1 request; {malformed}").response()
        response.headers["Server"] = SERVER
        response.force_close()
        return response

    def _expect_progress(self) -> None:
        if self._wire is not None:
            self._set(self._limits.stall_s, self._wire.abort)

    def _set(self, delay_s: float, action: Callable[[], None]) -> None:
        if self._alarm is None:
            self._alarm = self._loop.call_later(delay_s, action)

    def _call_off(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


class Refused(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It ends at once."""
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()


class Door:
    """A port, where clients of one application come in."""

    def __init__(
        self,
        application: web.Application,
        certificate: Certificate | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._certificate = certificate
        self._listening: asyncio.Server | None = None
        self._runner = web.AppRunner(
            application,
            handle_signals=False,
            handler_cancellation=True,  # a client that goes away frees its pod's place at once
            shutdown_timeout=_CLOSING_S,
        )

    @property
    def port(self) -> int:
        """Where it is, once it is open."""
        assert self._listening is not None
        port: int = self._listening.sockets[0].getsockname()[1]
        return port

    async def open(self, host: str, port: int) -> None:
        """Let clients in.

        Raises:
            OSError: the port is taken, or not ours to take.
        """
        await self._runner.setup()
        tls = None if self._certificate is None else self._certificate.context
        self._listening = await asyncio.get_running_loop().create_server(
            self._enter,
            host,
            port,
            backlog=1024,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else self._limits.head_s,
        )
        for listener in self._listening.sockets:  # connections inherit it
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)

    async def close(self) -> None:
        """Let nobody in any more, and end what is open."""
        if self._listening is not None:
            self._listening.close()
        await self._runner.cleanup()

    def _enter(self) -> asyncio.Protocol:
        server = self._runner.server
        assert server is not None
        if self._certificate is not None:
            self._certificate.follow()
        full = len(server.connections) >= _files_for_connections()
        return Refused() if full else Connection(server, self._limits)


def expect_strict_parser() -> None:
    """aiohttp's parser in Python has let requests be smuggled past proxies; the one in C has not.

    Raises:
        RuntimeError: this machine lacks it.
    """
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise RuntimeError(
            "aiohttp runs without its HTTP parser in C; install its binary wheel, and unset "
            "AIOHTTP_NO_EXTENSIONS"
        )


def allow_open_files() -> None:
    """Every connection is an open file, and the usual limit is 1024 of them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _files_for_connections() -> int:
    """Each client may need a connection to a pod besides; probes need some, too."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max((allowed - _SPARE_FILES) // 2, allowed // 4)
