"""A port, and who may come in: it refuses what would take the files that the rest needs."""

import asyncio
import logging
import resource
import socket

from aiohttp import http_parser, web

from aweigh_api.certificate import Certificate
from aweigh_http.connection import Connection, Limits

SPARE_FILES = 512  # for everything that is no client's connection
_CLOSING_S = 1.0  # for handlers that are still open; drained servers have none
_FLUSHING_S = 3600.0  # for what is unsent when TLS ends; who takes nothing of it is cut off sooner
_BACKLOG = 1024

_log = logging.getLogger("aweigh.server")


class UnsafeParser(RuntimeError):
    """This machine lacks what is needed to read HTTP safely; the message says what to do."""


class Door:
    """Where clients of one application come in."""

    def __init__(
        self,
        application: web.Application,
        limits: Limits | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        """Without a certificate there is no TLS.

        Raises:
            UnsafeParser: aiohttp runs without its parser in C.
        """
        _expect_strict_parser()
        self._limits = limits or Limits()
        self._certificate = certificate
        self._full = False
        self._listening: asyncio.Server | None = None
        self._runner = web.AppRunner(
            application,
            handle_signals=False,
            handler_cancellation=True,  # a client that goes away frees its place at once
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
            backlog=_BACKLOG,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else self._limits.head_s,
            ssl_shutdown_timeout=None if tls is None else _FLUSHING_S,
        )
        for listener in self._listening.sockets:  # connections inherit it
            size = self._limits.send_buffer_bytes
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

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
        full = len(server.connections) >= _most_connections(self._limits)
        if full and not self._full:
            _log.warning("too many connections; new ones are refused")
        self._full = full
        return _Refused() if full else Connection(server, self._limits)


class _Refused(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It ends at once."""
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()


def allow_open_files() -> None:
    """Every connection is an open file, and the usual limit is 1024 of them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _most_connections(limits: Limits) -> int:
    """Clients must not take the files that probes need: the kubelet would restart a full server."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = max(allowed - SPARE_FILES, allowed // 2)
    return min(limits.connections, files // limits.files)


def _expect_strict_parser() -> None:
    """aiohttp's parser in Python has let requests be smuggled past proxies; the one in C has not.

    Raises:
        UnsafeParser: this machine lacks it.
    """
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise UnsafeParser(
            "aiohttp runs without its HTTP parser in C; install its binary wheel, and unset "
            "AIOHTTP_NO_EXTENSIONS"
        )
