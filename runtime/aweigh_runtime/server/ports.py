"""The two ports: both listen from the start, before the model is loaded."""

import errno
from dataclasses import replace
from types import TracebackType
from typing import Self

from aweigh_api.api_keys import Keys
from aweigh_api.certificate import Certificate
from aweigh_api.mounts import UnusableSecret
from aweigh_http.connection import Limits
from aweigh_http.door import SPARE_FILES, Door, UnsafeParser, allow_open_files
from aweigh_runtime.config import Config
from aweigh_runtime.failures import InvalidConfiguration
from aweigh_runtime.server import admin, app
from aweigh_runtime.server.router_secret import RouterSecret
from aweigh_runtime.server.service import Service


class Ports:
    """Use as a context: leaving it closes every connection."""

    def __init__(self, config: Config, service: Service, limits: Limits | None = None) -> None:
        """Read the API keys, the router's secret and the certificate.

        Raises:
            InvalidConfiguration: they are missing or no good, or HTTP cannot be read safely.
        """
        self._config = config
        shown, limits = config.router_secret_dir, limits or Limits()
        try:
            keys = None if config.api_keys_dir is None else Keys(config.api_keys_dir)
            secret = None if shown is None else RouterSecret(shown)
            self._certificate = None if config.tls_dir is None else Certificate(config.tls_dir)
            self._public = Door(app.application(service, keys, secret), limits, self._certificate)
            few = replace(limits, connections=SPARE_FILES // 2)
            self._admin = Door(admin.application(service), few)
        except (UnusableSecret, UnsafeParser) as error:
            raise InvalidConfiguration(str(error)) from error

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
        allow_open_files()
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

    async def _open(self, door: Door, flag: str, port: int) -> None:
        try:
            await door.open(self._config.host, port)
        except OSError as error:
            taken = error.errno in (errno.EADDRINUSE, errno.EACCES)
            remedy = f"give another {flag} or end what uses it" if taken else "give another --host"
            raise InvalidConfiguration(
                f"cannot listen on {self._config.host} port {port}: {error.strerror}; {remedy}"
            ) from error
