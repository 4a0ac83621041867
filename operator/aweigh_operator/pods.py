"""Reads pods' own reports, `/state`. A pod that does not answer in time is simply unknown.

Only addresses that the API server gave are asked, and no more is read than a report may hold. A pod
that stays silent is asked ever more seldom, so that it takes little time from other services.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import aiohttp
from pydantic import ValidationError

from aweigh_api import names
from aweigh_api.router_state import RouterState
from aweigh_api.state import MAX_STATE_BYTES, State
from aweigh_operator.observe import Pod

Report = TypeVar("Report", State, RouterState)

TIMEOUT_S = 1.0
MAX_AT_ONCE = 64  # of one service, or a part of its pods, if that is more …
PARTS = 4  # … so that all were read after so many times
MAX_REMEMBERED = 8192
FRESH_LOADING_S = 1.0
FRESH_SERVING_S = 18.0
LONGEST_PAUSE_S = 16.0  # of a pod that loads; one that serves tells nothing that changes


@dataclass(frozen=True, slots=True)
class _Report(Generic[Report]):
    state: Report | None
    read_at: float
    while_ready: bool
    silent: int  # how often in a row it has not answered

    @property
    def fresh_s(self) -> float:
        if self.state is not None:
            return FRESH_SERVING_S if self.while_ready else FRESH_LOADING_S
        longest_s = FRESH_SERVING_S if self.while_ready else LONGEST_PAUSE_S
        return min(longest_s, FRESH_LOADING_S * 2.0 ** min(self.silent - 1, 10))


class Reports(Generic[Report]):
    """The last report of each pod."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        form: type[Report],
        port: int = names.ADMIN_PORT,
        clock: Callable[[], float] = time.monotonic,
        lines: asyncio.Semaphore | None = None,
    ) -> None:
        """`form` is that of the reports, `port` the admin port of the pods.

        `lines` bounds how many are read at once, here and wherever it is given, too.
        """
        self._session = session
        self._lines = lines or asyncio.Semaphore(MAX_AT_ONCE)
        self._form: type[Report] = form
        self._port = port
        self._clock = clock
        self._reports: OrderedDict[str, _Report[Report]] = (
            OrderedDict()
        )  # the one read last comes last

    async def read(
        self, pods: Iterable[Pod], fresh_s: float | None = None, *, leaving: bool = False
    ) -> dict[str, Report]:
        """What these pods say, by uid; asked again only when the last answer is old.

        `fresh_s` is how old it may be where that is not for this reader to say, and `leaving`
        whether those are asked, too, that end.
        Of many pods those come first that waited longest, and the others when it is read again.
        """
        asked = [pod for pod in pods if pod.answers and (pod.live or leaving)]
        due = [pod for pod in asked if self._is_due(pod, fresh_s)]
        due = sorted(due, key=self._read_at)[: max(MAX_AT_ONCE, -(-len(asked) // PARTS))]
        await asyncio.gather(*map(self._refresh, due))
        found = {pod.uid: self._reports.get(pod.uid) for pod in asked}
        return {uid: each.state for uid, each in found.items() if each and each.state}

    def _is_due(self, pod: Pod, fresh_s: float | None) -> bool:
        last = self._reports.get(pod.uid)
        if last is None or last.while_ready != pod.ready:
            return True
        wanted_s = last.fresh_s
        if fresh_s is not None and last.state is not None:  # else it is asked ever more seldom
            wanted_s = min(fresh_s, wanted_s)
        return self._clock() - last.read_at >= wanted_s

    def _read_at(self, pod: Pod) -> float:
        last = self._reports.get(pod.uid)
        return last.read_at if last is not None else float("-inf")

    async def _refresh(self, pod: Pod) -> None:
        async with self._lines:  # the pod's time begins once it is asked
            last, now = self._reports.get(pod.uid), self._clock()
            state = await self._get(pod)
        before = last.silent if last is not None and last.while_ready == pod.ready else 0
        silent = before + 1 if state is None else 0
        self._keep(pod, _Report(state, now, pod.ready, silent))

    def told(self, pod: Pod, state: Report) -> None:
        """What a pod has said without being asked."""
        self._keep(pod, _Report(state, self._clock(), pod.ready, 0))

    def _keep(self, pod: Pod, report: _Report[Report]) -> None:
        self._reports[pod.uid] = report
        self._reports.move_to_end(pod.uid)
        if len(self._reports) > MAX_REMEMBERED:
            self._reports.popitem(last=False)

    async def _get(self, pod: Pod) -> Report | None:
        url = f"{address(pod, self._port)}/state"
        body = b""
        try:
            async with (
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
        try:
            found: Report = self._form.model_validate_json(body)
        except ValidationError:
            return None
        return found


def address(pod: Pod, port: int) -> str:
    """Where a pod is asked, as the API server knows it."""
    host = f"[{pod.ip}]" if ":" in str(pod.ip) else pod.ip
    return f"http://{host}:{port}"
