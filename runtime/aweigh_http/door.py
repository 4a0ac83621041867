"""A port, and who may come in: it refuses what would take the files that the rest needs."""

import asyncio
import logging
import os
import resource
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import cast

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
        self._handshakes: set[asyncio.Task[None]] = set()
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
        self._listening = await asyncio.get_running_loop().create_server(
            self._enter,
            host,
            port,
            backlog=_BACKLOG,
        )
        for listener in self._listening.sockets:  # connections inherit it
            size = self._limits.send_buffer_bytes
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    async def close(self) -> None:
        """Let nobody in any more, and end what is open."""
        if self._listening is not None:
            self._listening.close()
        for handshake in self._handshakes:
            handshake.cancel()
        await self._runner.cleanup()

    def _enter(self) -> asyncio.Protocol:
        server = self._runner.server
        if server is None:  # it came just before the door was closed
            return _Refused()
        held = len(server.connections) + len(self._handshakes)
        full = held >= _most_connections(self._limits)
        if full and not self._full:
            _log.warning("too many connections; new ones are refused")
        self._full = full
        if full:
            return _Refused()
        if self._certificate is None:
            return Connection(server, self._limits)
        return _Unsecured(self._secure)

    def _secure(self, wire: socket.socket) -> None:
        handshake = asyncio.ensure_future(self._shake_hands(wire))
        self._handshakes.add(handshake)
        handshake.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, wire: socket.socket) -> None:
        server, certificate = self._runner.server, self._certificate
        if server is None:  # it came just before the door was closed
            wire.close()
            return
        assert certificate is not None
        certificate.follow()
        with suppress(OSError):  # it was no handshake, or took too long
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Connection(server, self._limits),
                wire,
                ssl=certificate.context,
                ssl_handshake_timeout=self._limits.head_s,
                ssl_shutdown_timeout=_FLUSHING_S,
            )


class _Unsecured(asyncio.Protocol):
    """One that TLS takes over. A port that did so itself would say nothing before TLS stands."""

    def __init__(self, secure: Callable[[socket.socket], None]) -> None:
        self._secure = secure

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nothing has been read of it yet."""
        try:
            wire = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
            wire.setblocking(False)
            self._secure(wire)
        finally:
            cast(asyncio.Transport, transport).abort()  # which does not end what it was doubled to


class _Refused(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It ends at once."""
        cast(asyncio.Transport, transport).abort()


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
