"""The two ports: both listen from the start, before the model is loaded."""

from types import TracebackType
from typing import Self

from aiohttp import web

from aweigh_runtime.config import Config
from aweigh_runtime.failures import InvalidConfiguration
from aweigh_runtime.server import admin, app
from aweigh_runtime.server.service import Service

_CLOSING_S = 1.0  # for handlers that are still open; drained servers have none
_IDLE_CONNECTION_S = 60.0


class Ports:
    """Use as a context: leaving it closes every connection."""

    def __init__(self, config: Config, service: Service) -> None:
        self._config = config
        self._public = _runner(app.application(service))
        self._admin = _runner(admin.application(service))

    @property
    def url(self) -> str:
        """Base URL of the OpenAI API, for a client on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._config.host, self._config.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{_port(self._public)}/v1"

    async def __aenter__(self) -> Self:
        try:
            await self._listen(self._admin, "--admin-port", self._config.admin_port)
            await self._listen(self._public, "--port", self._config.port)
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
        await self._public.cleanup()
        await self._admin.cleanup()

    async def _listen(self, runner: web.AppRunner, flag: str, port: int) -> None:
        await runner.setup()
        try:
            await web.TCPSite(runner, self._config.host, port).start()
        except OSError as error:
            raise InvalidConfiguration(
                f"cannot listen on {self._config.host} port {port}: {error.strerror}; give another "
                f"{flag} or end what uses it"
            ) from error


def _runner(application: web.Application) -> web.AppRunner:
    return web.AppRunner(
        application,
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,  # a client that goes away frees its place at once
        keepalive_timeout=_IDLE_CONNECTION_S,
        shutdown_timeout=_CLOSING_S,
    )


def _port(runner: web.AppRunner) -> int:
    port: int = runner.addresses[0][1]
    return port
