"""`aweigh-operator`: reads the settings, connects the parts, runs until it is told to stop."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from typing import Any

import aiohttp
import kopf

from aweigh_api import crd, names
from aweigh_api.state import State
from aweigh_api.variables import without_effect
from aweigh_operator import handlers, logs
from aweigh_operator.cluster import ApiError, ApiServer, load_configuration
from aweigh_operator.events import Recorder
from aweigh_operator.health import LONGEST_WORK_S, Health
from aweigh_operator.lease import Lease
from aweigh_operator.metrics import Metrics
from aweigh_operator.observe import Key
from aweigh_operator.pods import Reports
from aweigh_operator.readers import Readers
from aweigh_operator.reconcile import Reconciler
from aweigh_operator.resources import RESOURCES
from aweigh_operator.routers import Routers
from aweigh_operator.settings import VARIABLES, Settings, read
from aweigh_operator.store import Store
from aweigh_operator.sweep import keep_sweeping, until_known
from aweigh_operator.workqueue import WorkQueue

STOP_GRACE_S = 7.0
ACCESS_TIMEOUT_S = 60.0  # for the API server to come up, the CRD and the role to be created
ACCESS_RETRY_S = 2.0
MAX_FIELDS = 5  # of those that are lacking, named in one sentence
MAX_REPORTS = 100  # that are read at once
NEW_OBJECTS = 20_000  # after so many the garbage collector looks at the young ones
logger = logging.getLogger(__name__)


class AccessError(Exception):
    """The operator may not, or cannot, see what it works on."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `aweigh-operator`."""
    settings = read(sys.argv[1:] if argv is None else argv, os.environ)
    logs.configure(settings.log_level)
    for warning in without_effect(os.environ, VARIABLES, "aweigh-operator"):
        logger.warning(warning)
    # What is imported stays for ever, and what is known of services for long: with the defaults
    # the collector would look through all of it again and again.
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, 20, 20)
    try:
        asyncio.run(_run(settings))
    except AccessError as error:
        logger.error("%s", error)
        sys.exit(1)


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    _stop_on_signals(stop)
    metrics = Metrics()
    api = ApiServer(await load_configuration(), metrics.requested)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(api.close)
        session = await stack.enter_async_context(_session())
        lines = asyncio.Semaphore(MAX_REPORTS)
        store = Store()
        recorder = Recorder(api, socket.gethostname(), metrics.told)
        routers = Routers(session, lambda key: queue.add(key, urgent=True), lines=lines)
        stack.callback(routers.forget)
        readers = Readers(Reports(session, State, lines=lines), routers)
        reconciler = Reconciler(store, api, readers, recorder, metrics, settings)
        queue: WorkQueue[Key] = WorkQueue(reconciler.reconcile, metrics)
        metrics.leads(not settings.lease)
        metrics.watch(
            "aweigh_operator_queue_oldest_seconds",
            "Age of the key that has waited or is worked on longest.",
            queue.oldest_age_s,
        )
        kept: list[asyncio.Task[None]] = []
        health = Health(metrics, lambda: _trouble(queue, kept))
        await health.start(settings.probe_port, settings.metrics_port)
        stack.push_async_callback(health.stop)
        await _unless(stop, check_access(api, settings))
        await _unless(stop, check_schema(api))
        if settings.lease:
            turns = _turns(settings.lease, api, queue, reconciler, metrics)
            kept.append(await stack.enter_async_context(turns))
        stack.push_async_callback(queue.stop, STOP_GRACE_S)
        relisted = asyncio.Event()
        registry = handlers.registry(queue, store, _login, relisted.set)
        working = _work(api, store, settings, queue, health, relisted)
        await _watch(settings, registry, queue, health, stop, working)


def _session() -> aiohttp.ClientSession:
    """For pods: each is asked too seldom for its connection to be kept, and sets no cookie.

    Who uses it bounds the number of connections: their time begins when they are opened.
    """
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


@contextlib.asynccontextmanager
async def _turns(
    name: str, api: ApiServer, queue: WorkQueue[Key], reconciler: Reconciler, metrics: Metrics
) -> AsyncIterator[asyncio.Task[None]]:
    """Work only while the Lease is held; it is given back at the end, when work has ended.

    Gives the task that keeps it, which has no end of its own.
    """
    worked_at: int | None = None  # that many changes of the holder

    def changed(leads: bool) -> None:
        nonlocal worked_at
        logger.info("%s: %s", name, "this operator works" if leads else "another may work")
        metrics.leads(leads)
        if leads:
            if lease.transitions != worked_at:  # else nobody has worked in between
                reconciler.forget()
            worked_at = lease.transitions
            queue.resume()
        else:
            queue.pause()
            reconciler.stand_by()

    queue.pause()
    lease = Lease(api, Key(*name.split("/")), socket.gethostname(), changed)
    api.writable_s = lambda: lease.writable_s
    keeping = asyncio.create_task(lease.keep(), name="lease")
    try:
        yield keeping
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await lease.release()


async def _work(
    api: ApiServer,
    store: Store,
    settings: Settings,
    queue: WorkQueue[Key],
    health: Health,
    relisted: asyncio.Event,
) -> None:
    """Let the queue work once everything is known, and look for what is gone, for ever."""
    await until_known(api, store, settings.namespaces)
    queue.start()
    health.ready = True
    period_s = settings.resync_seconds
    await keep_sweeping(api, store, settings.namespaces, queue.add, relisted, period_s)


async def _watch(
    settings: Settings,
    registry: kopf.OperatorRegistry,
    queue: WorkQueue[Key],
    health: Health,
    stop: asyncio.Event,
    working: Coroutine[Any, Any, None],
) -> None:
    """Let kopf watch, and work, until one of them fails or they are told to stop."""
    if stop.is_set():
        working.close()
        return
    tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=handlers.settings(),
        standalone=True,
        # Kopf's own guess asks for the name of the user, and a pod's user has none.
        identity=names.OPERATOR,  # type: ignore[arg-type]
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
    )
    _stop_on_signals(stop)  # kopf has put its own handlers in their place
    logger.info("watching %s", ", ".join(settings.namespaces) or "all namespaces")
    tasks = [*tasks, asyncio.create_task(working, name="work")]
    stopping = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
    health.ready = False
    await queue.stop(STOP_GRACE_S)
    for task in (*tasks, stopping):
        task.cancel()
    await asyncio.wait([*tasks, stopping], timeout=STOP_GRACE_S)
    failures = [task.exception() for task in done if not task.cancelled()]
    if any(failures):
        raise AccessError(f"watching ended: {next(filter(None, failures))}")


async def check_access(api: ApiServer, settings: Settings) -> None:
    """Fail with one sentence now, rather than wait silently for objects that never come."""
    deadline = time.monotonic() + ACCESS_TIMEOUT_S
    for namespace in settings.namespaces or (None,):
        for kind in RESOURCES:
            while True:
                try:
                    await api.listable(kind, namespace)
                    break
                except ApiError as error:
                    if time.monotonic() > deadline:
                        raise AccessError(f"{error}. {_remedy(kind, error)}") from error
                    logger.warning("%s; trying again", error)
                    await asyncio.sleep(ACCESS_RETRY_S)


async def check_schema(api: ApiServer) -> None:
    """Fail, rather than lose what an older CustomResourceDefinition has no field for.

    One that comes with the operator may arrive, and be published, a moment later.
    """
    deadline = time.monotonic() + ACCESS_TIMEOUT_S
    while (trouble := await _schema_trouble(api)) is not None:
        if time.monotonic() > deadline:
            raise AccessError(trouble)
        logger.warning("%s; trying again", trouble)
        await asyncio.sleep(ACCESS_RETRY_S)


async def _schema_trouble(api: ApiServer) -> str | None:
    try:
        served = await api.schema()
    except ApiError as error:
        if error.status not in (401, 403):
            return str(error)
        logger.warning("%s; so nobody checks that it has the fields of this version", error)
        return None
    if not served:
        return (
            f"the API server does not publish the schema of {names.KIND}s: expected it under "
            f"`kubectl get --raw /openapi/v3/apis/{names.API_VERSION}`"
        )
    lacking = crd.lacking(served, crd.schema())
    if not lacking:
        return None
    named, more = ", ".join(lacking[:MAX_FIELDS]), len(lacking) - MAX_FIELDS
    return (
        f"the CustomResourceDefinition {names.PLURAL}.{names.GROUP} of this cluster is older than "
        f"this operator and lacks {named}{f' and {more} more fields' if more > 0 else ''}: what is "
        "set there would be lost. Bring it to this version with `kubectl apply -f "
        "crds/inferenceservices.yaml`, or with the Helm chart and crds.install=true"
    )


def _remedy(kind: str, error: ApiError) -> str:
    if error.status == 404 and kind == names.KIND:
        return f"Install the CustomResourceDefinition {names.PLURAL}.{names.GROUP} of this version"
    if error.status in (401, 403):
        return "Give the operator's ServiceAccount the role that the Helm chart brings"
    return "Check that the API server can be reached from the operator's pod"


async def _login() -> kopf.ConnectionInfo:
    """Kopf's way to the API server: the same as ours, read anew when a token has expired."""
    found = await load_configuration()
    token = found.api_key.get("BearerToken", "").split(" ")[-1]
    return kopf.ConnectionInfo(
        server=found.host,
        ca_path=found.ssl_ca_cert,
        insecure=not found.verify_ssl,
        token=token or None,
        certificate_path=found.cert_file,
        private_key_path=found.key_file,
    )


def _trouble(queue: WorkQueue[Key], kept: Iterable[asyncio.Task[None]]) -> str | None:
    if queue.broken():
        return "a worker has ended"
    for task in kept:
        if task.done() and not task.cancelled():
            return f"the Lease is kept no more: {task.exception()!r}"
    age_s = queue.longest_work_s()
    return f"a key is at work for {age_s:.0f} s" if age_s > LONGEST_WORK_S else None


def _stop_on_signals(stop: asyncio.Event) -> None:
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do this, or give it up when told to stop."""
    tasks = [asyncio.create_task(work), asyncio.create_task(stop.wait())]
    done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for task in done:
        task.result()
