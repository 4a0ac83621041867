"""Reads routers' reports, and keeps a stream open to each router of a service that has no pod.

On that stream a router says at once that requests have begun to wait, so that nobody has to look
for it. One that breaks is opened again; meanwhile the usual looks find what waits.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

import aiohttp
from pydantic import ValidationError

from aweigh_api import names
from aweigh_api.router_state import WAKE_EVERY_S, WAKE_PATH, RouterState
from aweigh_api.state import MAX_STATE_BYTES
from aweigh_operator.observe import Key, Pod
from aweigh_operator.pods import Reports, address

PAUSE_S = 1.0  # before a stream that has ended is opened again
SILENT_S = 3 * WAKE_EVERY_S  # after which a stream is believed dead
logger = logging.getLogger(__name__)


class Routers:
    """Routers of all services."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        woken: Callable[[Key], None],
        port: int = names.ADMIN_PORT,
        lines: asyncio.Semaphore | None = None,
    ) -> None:
        """`session` is for reports and streams, both from the routers' admin port.

        `woken` is told a service for which requests wait; `lines` is that of `Reports`.
        """
        self._session = session
        self._woken = woken
        self._port = port
        self._reports = Reports(session, RouterState, port, lines=lines)
        self._streams: dict[Key, dict[str, asyncio.Task[None]]] = {}

    async def read(self, routers: Iterable[Pod], fresh_s: float | None) -> dict[str, RouterState]:
        """What these routers say, by uid; no older than this, if they answer.

        Those that end have clients yet, and take requests until all have noticed.
        """
        return await self._reports.read(routers, fresh_s, leaving=True)

    def listen(self, key: Key, routers: Iterable[Pod]) -> None:
        """Keep streams to these routers of a service that has no pod, and to no others of it."""
        wanted = {pod.uid: pod for pod in routers if pod.answers and (pod.ready or pod.leaving)}
        open = self._streams.setdefault(key, {})
        for uid in open.keys() - wanted.keys():
            open.pop(uid).cancel()
        for uid in wanted.keys() - open.keys():
            open[uid] = asyncio.create_task(self._follow(key, wanted[uid]), name=f"wake {key}")
        if not open:
            del self._streams[key]

    def forget(self) -> None:
        """Listen to nobody any more."""
        for key in list(self._streams):
            self.listen(key, ())

    async def _follow(self, key: Key, router: Pod) -> None:
        while True:
            try:
                await self._hear(key, router)
            except (TimeoutError, aiohttp.ClientError, OSError, ValidationError) as error:
                logger.debug("%s: the stream of router %s has ended: %s", key, router.name, error)
            await asyncio.sleep(PAUSE_S)

    async def _hear(self, key: Key, router: Pod) -> None:
        limits = aiohttp.ClientTimeout(total=None, sock_connect=SILENT_S, sock_read=SILENT_S)
        url = f"{address(router, self._port)}{WAKE_PATH}"
        async with self._session.get(url, allow_redirects=False, timeout=limits) as response:
            response.raise_for_status()
            rest = b""
            async for piece in response.content.iter_any():
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > MAX_STATE_BYTES:  # it is no report
                    return
                for line in filter(bytes.strip, lines):
                    self._heard(key, router, RouterState.model_validate_json(line))

    def _heard(self, key: Key, router: Pod, state: RouterState) -> None:
        self._reports.told(router, state)
        if state.waiting:
            self._woken(key)
