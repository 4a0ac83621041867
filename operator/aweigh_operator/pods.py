"""Reads the pods' own reports, `/state`. A pod that does not answer in time is simply unknown.

Only addresses that the API server gave are asked, and no more is read than a report may hold.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import aiohttp
from pydantic import ValidationError

from aweigh_api import names
from aweigh_api.state import MAX_STATE_BYTES, State
from aweigh_operator.observe import Pod

TIMEOUT_S = 1.0
MAX_AT_ONCE = 32
MAX_REMEMBERED = 8192
FRESH_LOADING_S = 1.0
FRESH_SERVING_S = 55.0


@dataclass(frozen=True, slots=True)
class _Report:
    state: State | None
    read_at: float
    while_ready: bool


class Reports:
    """The last report of each pod."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        port: int = names.ADMIN_PORT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`port` is the admin port of the pods."""
        self._session = session
        self._port = port
        self._clock = clock
        self._reports: OrderedDict[str, _Report] = OrderedDict()
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    async def read(self, pods: Iterable[Pod]) -> dict[str, State]:
        """What these pods say, by uid; asked again only when the last answer is old."""
        asked = [pod for pod in pods if pod.running and pod.ip is not None and pod.live]
        await asyncio.gather(*(self._refresh(pod) for pod in asked))
        found = {pod.uid: self._reports.get(pod.uid) for pod in asked}
        return {uid: each.state for uid, each in found.items() if each and each.state}

    async def _refresh(self, pod: Pod) -> None:
        last, now = self._reports.get(pod.uid), self._clock()
        if last is not None and last.while_ready == pod.ready:
            fresh_s = FRESH_SERVING_S if pod.ready and last.state else FRESH_LOADING_S
            if now - last.read_at < fresh_s:
                return
        self._reports[pod.uid] = _Report(await self._get(pod), now, pod.ready)
        self._reports.move_to_end(pod.uid)
        if len(self._reports) > MAX_REMEMBERED:
            self._reports.popitem(last=False)

    async def _get(self, pod: Pod) -> State | None:
        host = f"[{pod.ip}]" if ":" in str(pod.ip) else pod.ip
        url = f"http://{host}:{self._port}/state"
        body = b""
        try:
            async with (
                self._slots,
                asyncio.timeout(TIMEOUT_S),
                self._session.get(url, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    return None
                # One read gives what has arrived, which may be half of it.
                async for piece in response.content.iter_any():
                    body += piece
                    if len(body) > MAX_STATE_BYTES:
                        return None
        except (TimeoutError, aiohttp.ClientError, OSError):
            return None
        return _parse(body)


def _parse(body: bytes) -> State | None:
    try:
        return State.model_validate_json(body)
    except ValidationError:
        return None
