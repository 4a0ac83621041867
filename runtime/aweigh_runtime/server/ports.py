"""The two ports: both listen from the start, before the model is loaded."""

import asyncio
import errno
import logging
import resource
import socket
from dataclasses import replace
from types import TracebackType
from typing import Self

from aiohttp import http_parser, web

from aweigh_api.api_keys import Keys
from aweigh_api.certificate import Certificate
from aweigh_api.mounts import UnusableSecret
from aweigh_runtime.config import Config
from aweigh_runtime.failures import InvalidConfiguration
from aweigh_runtime.server import admin, app
from aweigh_runtime.server.connection import Connection, Limits, Refused
from aweigh_runtime.server.router_secret import RouterSecret
from aweigh_runtime.server.service import Service

_CLOSING_S = 1.0  # for handlers that are still open; drained servers have none
_BACKLOG = 1024
_SEND_BUFFER_BYTES = 128 << 10  # in the kernel, for each client; grown on demand it takes 4 MiB
_SPARE_FILES = 512  # for everything that is no client's connection

_log = logging.getLogger("aweigh.server")


class Ports:
    """Use as a context: leaving it closes every connection."""

    def __init__(self, config: Config, service: Service, limits: Limits | None = None) -> None:
        """Read the API keys, the router's secret and the certificate.

        Raises:
            InvalidConfiguration: they are missing or no good.
        """
        _expect_strict_parser()
        self._config = config
        shown = config.router_secret_dir
        try:
            keys = None if config.api_keys_dir is None else Keys(config.api_keys_dir)
            secret = None if shown is None else RouterSecret(shown)
            self._certificate = None if config.tls_dir is None else Certificate(config.tls_dir)
        except UnusableSecret as error:
            raise InvalidConfiguration(str(error)) from error
        limits = limits or Limits()
        self._public = Door(app.application(service, keys, secret), limits, self._certificate)
        few = replace(limits, connections=_SPARE_FILES // 2)
        self._admin = Door(admin.application(service), few, None)

    @property
    def url(self) -> str:
        """Base URL of the OpenAI API, for a client on this machine."""
        scheme = "http" if self._certificate is None else "https"
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._config.host, self._config.host)
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self._public.port}/v1"

    @property
    def admin_port(self) -> int:
        """Where the admin port really is."""
        return self._admin.port

    async def __aenter__(self) -> Self:
        _allow_open_files()
        try:
            await self._open(self._admin, "--admin-port", self._config.admin_port)
            await self._open(self._public, "--port", self._config.port)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        await self._public.close()
        await self._admin.close()

    async def _open(self, door: "Door", flag: str, port: int) -> None:
        try:
            await door.open(self._config.host, port)
        except OSError as error:
            taken = error.errno in (errno.EADDRINUSE, errno.EACCES)
            remedy = f"give another {flag} or end what uses it" if taken else "give another --host"
            raise InvalidConfiguration(
                f"cannot listen on {self._config.host} port {port}: {error.strerror}; {remedy}"
            ) from error


class Door:
    """Where clients of one application come in."""

    def __init__(
        self, application: web.Application, limits: Limits, certificate: Certificate | None
    ) -> None:
        self._limits = limits
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
        full = len(server.connections) >= min(self._limits.connections, _files_for_connections())
        if full and not self._full:
            _log.warning("too many connections; new ones are refused")
        self._full = full
        return Refused() if full else Connection(server, self._limits)


def _expect_strict_parser() -> None:
    """aiohttp's parser in Python has let requests be smuggled past proxies; the one in C has not.

    Raises:
        InvalidConfiguration: this machine lacks it.
    """
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise InvalidConfiguration(
            "aiohttp runs without its HTTP parser in C; install its binary wheel, and unset "
            "AIOHTTP_NO_EXTENSIONS"
        )


def _allow_open_files() -> None:
    """Every connection is an open file, and the usual limit is 1024 of them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _files_for_connections() -> int:
    """Clients must not take the files that probes need: the kubelet would restart a full server."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(allowed - _SPARE_FILES, allowed // 2)
