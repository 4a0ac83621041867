"""One router from start to end: listen, find the pods, serve, drain."""

import asyncio
import gc
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from aweigh_api.api_keys import Keys
from aweigh_api.certificate import Certificate
from aweigh_http.connection import Limits
from aweigh_http.door import SPARE_FILES, Door, allow_open_files
from aweigh_router import admin, app
from aweigh_router.cluster import ApiServer, Watch
from aweigh_router.dispatch import Dispatch
from aweigh_router.keeping import Keeping
from aweigh_router.line import Line
from aweigh_router.metrics import Metrics
from aweigh_router.pod_client import PodClient, Secret
from aweigh_router.relay import Relay
from aweigh_router.reports import Reports
from aweigh_router.rooms import Found, Pods
from aweigh_router.service import Service
from aweigh_router.settings import Settings
from aweigh_router.slices import Slices
from aweigh_router.trust import Trust

# What a client does not take waits in its pod, to which it needs a connection besides.
_CLIENTS = Limits(
    connections=20_000, files=2, write_buffer_bytes=16 << 10, send_buffer_bytes=64 << 10
)
_PROBES = replace(_CLIENTS, connections=SPARE_FILES // 2, files=1)
_FAREWELL_S = 2.0  # for open requests to be told why they end

_log = logging.getLogger("aweigh.router")


class PortTaken(OSError):
    """A port cannot be listened on; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Router:
    """One that listens."""

    service: Service
    port: int
    admin_port: int
    tasks: tuple[asyncio.Task[None], ...]  # they never end, unless they fail


async def run(settings: Settings, on_ready: Callable[[int, int], None]) -> None:
    """Route until a signal.

    Args:
        settings: all of them.
        on_ready: called once with the public port and the admin port.

    Raises:
        UnusableSecret: a mounted Secret is no good.
        UnsafeParser: HTTP cannot be read safely.
        PortTaken: a port cannot be listened on.
        NotInCluster: the pods are to be found in a cluster, and there is none.
    """
    stop, now = _signals()
    async with opened(settings) as router:
        gc.freeze()  # what was loaded stays: nobody needs to look at it again
        on_ready(router.port, router.admin_port)
        await _first(stop.wait(), *router.tasks)
        await _drain(router.service, now)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Router]:
    """A router that listens and looks for pods; leaving ends all that is open.

    Raises:
        UnusableSecret, UnsafeParser, PortTaken: as `run`.
    """
    allow_open_files()
    keys = None if settings.api_keys_dir is None else Keys(settings.api_keys_dir)
    certificate = None if settings.tls_dir is None else Certificate(settings.tls_dir)
    trust = None if settings.tls_dir is None else Trust(settings.tls_dir)
    secret = None if settings.router_secret_dir is None else Secret(settings.router_secret_dir)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(PodClient(secret, trust))
        keeping = Keeping(client)
        stack.push_async_callback(keeping.close)
        service, reports = _assemble(settings, client, keeping)
        stack.push_async_callback(reports.close)
        tasks = (
            asyncio.create_task(_find(settings, service, reports)),
            asyncio.create_task(service.dispatch.keep_looking()),
        )
        stack.push_async_callback(_end, *tasks)
        admin_door = Door(admin.application(service), _PROBES)
        await _open(admin_door, stack, settings.host, "--admin-port", settings.admin_port)
        door = Door(app.application(service, keys), _CLIENTS, certificate)
        await _open(door, stack, settings.host, "--port", settings.port)
        yield Router(service, door.port, admin_door.port, tasks)


def _assemble(settings: Settings, client: PodClient, keeping: Keeping) -> tuple[Service, Reports]:
    metrics = Metrics(settings.model_name or settings.service)
    pods = Pods()
    dispatch = Dispatch(Line(settings.max_waiting), pods, time.monotonic, keeping.keep)
    reports = Reports(dispatch, client)
    relay = Relay(dispatch, client, reports, metrics, settings)
    return Service(settings, dispatch, relay, metrics), reports


async def _find(settings: Settings, service: Service, reports: Reports) -> None:
    """Follow which pods there are, for ever; the first answer makes the router ready."""

    def tell(found: list[Found]) -> None:
        service.dispatch.model = settings.model_name or None
        reports.follow(found)
        if service.phase == "loading":
            service.phase = "ready"
            _log.info("knows the pods", extra={"fields": {"pods": len(found)}})

    if settings.pod:
        tell([Found(url, url, ready=True) for url in settings.pod])
        await asyncio.Event().wait()
    slices, dispatch = Slices(tls=settings.tls_dir is not None), service.dispatch

    def tell_all() -> None:
        dispatch.reason, dispatch.deleted = slices.reason(), slices.gone
        dispatch.coming = slices.models()
        tell(slices.found())

    watch = Watch(
        ApiServer.of_this_pod(),
        settings.namespace,
        settings.pods_service,
        slices,
        tell_all,
    )
    await watch.run(asyncio.sleep)


async def _open(door: Door, stack: AsyncExitStack, host: str, flag: str, port: int) -> None:
    stack.push_async_callback(door.close)
    try:
        await door.open(host, port)
    except OSError as error:
        raise PortTaken(
            f"cannot listen on {host} port {port}: {error.strerror}; give another {flag} or "
            "--host, or end what uses it"
        ) from error


async def _drain(service: Service, now: asyncio.Event) -> None:
    """Take requests until clients have noticed; then finish what is open."""
    settings = service.settings
    service.phase, service.dispatch.ending = "draining", True
    _log.info("draining", extra={"fields": {"open_requests": service.num_open}})
    await _within(settings.drain_settle_seconds, now.wait())
    service.refusing = True
    if not now.is_set():
        await _within(settings.drain_timeout_seconds, _either(service.until_idle(), now.wait()))
    service.relay.end()
    await _within(_FAREWELL_S, service.until_idle())


async def _within(seconds: float, work: Awaitable[Any]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await work


async def _either(*works: Coroutine[Any, Any, Any]) -> None:
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _end(*tasks)


async def _first(stop: Coroutine[Any, Any, Any], *tasks: asyncio.Task[None]) -> None:
    """Until the stop; a task that fails before is an error of the router."""
    stopping = asyncio.create_task(stop)
    try:
        done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        stopping.cancel()


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _signals() -> tuple[asyncio.Event, asyncio.Event]:
    """SIGTERM and SIGINT: the first asks to drain, the second to end at once."""
    drain, now = asyncio.Event(), asyncio.Event()

    def receive() -> None:
        if drain.is_set():
            now.set()
        drain.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, receive)
    return drain, now
