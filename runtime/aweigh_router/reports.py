"""Listens to every pod's report of its room. A pod that cannot be heard gets no requests."""

import asyncio
import logging
from collections.abc import Iterable
from functools import partial

import aiohttp

from aweigh_api.routing import Room
from aweigh_router import rooms
from aweigh_router.dispatch import Dispatch
from aweigh_router.pod_client import PodClient
from aweigh_router.rooms import SILENT_S, Found, Pod

_AGAIN_S, _LONGEST_AGAIN_S = 0.1, 2.0  # until a pod is asked again; doubled each time
_BLIND_AGAIN_S = 30.0  # it has no reports; perhaps it is another one by then
_BLIND = "a pod takes this router for a client: it holds another secret, or is of an older version"
_WITHOUT_REPORTS = (401, 404)  # an older pod, or one that does not know our secret
_BREAKS_OFF = (aiohttp.ClientError, OSError, TimeoutError, ValueError)  # or is no report

_log = logging.getLogger("aweigh.router")


class Reports:
    """One open request to each pod; use `follow` with what the cluster says."""

    def __init__(self, dispatch: Dispatch, client: PodClient) -> None:
        self._dispatch = dispatch
        self._client = client
        self._listening: dict[Pod, asyncio.Task[None]] = {}

    def follow(self, found: Iterable[Found]) -> None:
        """These pods there are now. What others still answer is not interrupted."""
        new, gone = self._dispatch.pods.follow(found)
        for pod in gone:
            if pod.done:  # else it has to be noticed when it falls silent
                self._listening[pod].cancel()
        for pod in new:
            self._start(pod)
        for pod in (*new, *gone):
            _log.info("a pod has come" if pod in new else "a pod has gone", extra=_fields(pod))
        self._dispatch.match()

    def open_anew(self, pod: Pod) -> None:
        """It has answered as if it knew no router: its report may say no longer what it would."""
        if pod not in self._listening or pod.hearing != "reports":
            return
        self._listening[pod].cancel()
        rooms.unheard(pod, self._dispatch.clock())
        self._start(pod)

    async def close(self) -> None:
        """Listen no more."""
        for task in self._listening.values():
            task.cancel()
        await asyncio.gather(*self._listening.values(), return_exceptions=True)

    def _start(self, pod: Pod) -> None:
        task = asyncio.create_task(self._listen(pod), name=pod.found.name)
        self._listening[pod] = task
        task.add_done_callback(partial(self._ended, pod))

    def _ended(self, pod: Pod, task: asyncio.Task[None]) -> None:
        if self._listening.get(pod) is task:  # else it is listened to anew
            del self._listening[pod]

    async def _listen(self, pod: Pod) -> None:
        """For as long as the pod is there, or answers something, however often it breaks off."""
        again_s = _AGAIN_S
        while not pod.done:
            heard_s = pod.heard_s
            try:
                again_s = await self._read(pod, again_s)
            except Exception as error:  # whatever it is: a pod without ears would get nothing
                _tell(pod, error)
                rooms.unheard(pod, self._dispatch.clock())
                again_s = min(again_s * 2, _LONGEST_AGAIN_S)
            if pod.heard_s != heard_s:
                again_s = _AGAIN_S
            await asyncio.sleep(again_s)

    async def _read(self, pod: Pod, again_s: float) -> float:
        """Until the report ends; returns how long to wait then."""
        async with self._client.report(pod, SILENT_S) as response:
            if response.status in _WITHOUT_REPORTS:
                if pod.hearing != "blind" and self._client.has_secret:
                    _log.warning(_BLIND, extra=_fields(pod))
                pod.hearing = "blind"
                self._dispatch.match()
                return _BLIND_AGAIN_S
            if response.status != 200:
                rooms.unheard(pod, self._dispatch.clock())
                return min(again_s * 2, _LONGEST_AGAIN_S)
            async for line in response.content:
                report = Room.model_validate_json(line)
                rooms.reported(pod, report, self._dispatch.clock())
                self._dispatch.match()
                if pod.done:
                    return again_s
        rooms.unheard(pod, self._dispatch.clock())
        return again_s


def _tell(pod: Pod, error: Exception) -> None:
    """Why it is not heard; once, unless the reason is ours."""
    ours = not isinstance(error, _BREAKS_OFF)
    if ours or pod.hearing == "reports":
        fields = {"reason": str(error) or type(error).__name__, **_fields(pod)["fields"]}
        _log.warning("a pod is not heard any more", extra={"fields": fields}, exc_info=ours)


def _fields(pod: Pod) -> dict[str, dict[str, str]]:
    return {"fields": {"pod": pod.found.name, "url": pod.found.url}}
