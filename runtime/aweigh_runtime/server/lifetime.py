"""One server from start to end: listen, load, serve, drain."""

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from aweigh_api.termination import ExitCode
from aweigh_runtime.config import Config
from aweigh_runtime.engine.client import EngineClient, EngineStopped
from aweigh_runtime.failures import internal_error
from aweigh_runtime.server import errors
from aweigh_runtime.server.ports import Ports
from aweigh_runtime.server.service import Service

_FAREWELL_S = 2.0  # for open requests to be told why they end
_BETWEEN_LOOKS_S = 0.5

_log = logging.getLogger("aweigh.server")


class Signals:
    """SIGTERM and SIGINT: the first asks to drain, the second to end at once."""

    def __init__(self) -> None:
        self.drain = asyncio.Event()
        self.now = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._receive)

    def _receive(self) -> None:
        if self.drain.is_set():
            self.now.set()
        self.drain.set()


async def run(config: Config, engine: EngineClient, on_ready: Callable[[str], None]) -> None:
    """Serve until a signal.

    Raises:
        StartFailure: a port is taken, or a text of the model is broken.
        EngineStopped: the engine cannot start, has died, or hangs when the server shall end.
    """
    signals = Signals()
    service = Service(config, engine)
    watch = asyncio.create_task(_watch(service))
    try:
        async with Ports(config, service) as ports:
            if await _first(service.load(), watch, signals.drain):
                _log.info("ready", extra={"fields": {"model": config.model_name, "url": ports.url}})
                on_ready(ports.url)
                await _first(asyncio.Event().wait(), watch, signals.drain)
                await _drain(service, watch, signals)
            service.phase = "draining"
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError, EngineStopped):
            await watch
        await service.close()


async def _watch(service: Service) -> None:
    """Ends with an error when the engine does, after open requests have been told."""
    silence = asyncio.create_task(_fail_while_silent(service))
    try:
        stopped = await service.engine.watch()
    finally:
        silence.cancel()
    if service.phase != "loading":  # a start that fails is told of once, at its end
        _log.error("the engine stopped", extra={"fields": {"reason": str(stopped)}})
    service.failure = str(stopped)
    service.engine.refuse(errors.engine_lost())
    await service.seats.until_idle(_FAREWELL_S)
    raise stopped


async def _fail_while_silent(service: Service) -> None:
    """A hung engine may recover. What is open meanwhile fails; what comes later is served."""
    told = False
    while True:
        await asyncio.sleep(_BETWEEN_LOOKS_S)
        trouble = service.trouble()
        if trouble is not None:
            service.engine.fail_open(errors.engine_down())
            if not told:
                _log.error("the engine hangs", extra={"fields": {"reason": trouble}})
        told = trouble is not None


async def _first(
    work: Coroutine[Any, Any, Any], watch: asyncio.Task[None], stop: asyncio.Event
) -> bool:
    """Do the work unless the stop comes first. Whatever fails first is raised."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.create_task(stop.wait())
    try:
        tasks = {working, watch, stopping}
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in (watch, working):
            if task in done:
                task.result()
        return working in done
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


async def _drain(service: Service, watch: asyncio.Task[None], signals: Signals) -> None:
    """Wait for what is open; what is still open then gets an error.

    Raises:
        EngineStopped: the engine has died or hangs; then nothing is waited for.
    """
    service.phase = "draining"
    _log.info("draining", extra={"fields": {"open_requests": service.seats.open_requests}})
    if service.trouble() is None:
        await _wind_down(service, watch, signals)
    service.refusing = True
    trouble = service.trouble()
    service.engine.refuse(errors.draining() if trouble is None else errors.engine_down())
    await service.seats.until_idle(_FAREWELL_S)
    if trouble is not None:
        raise EngineStopped(ExitCode.BUG, internal_error(trouble))


async def _wind_down(service: Service, watch: asyncio.Task[None], signals: Signals) -> None:
    """Take requests until clients have noticed; then finish what is open."""
    if await _first(asyncio.sleep(service.config.drain_settle_seconds), watch, signals.now):
        service.refusing = True
        idle = service.seats.until_idle(service.config.drain_timeout_seconds)
        await _first(idle, watch, signals.now)
