"""Has pods keep what becomes free for the requests that wait for more than there is.

Within a router nobody else goes to a pod that is held for such a request. Other routers would.
"""

import asyncio

import aiohttp

from aweigh_router.calls import Call
from aweigh_router.pod_client import PodClient
from aweigh_router.rooms import Pod

AGAIN_S = 0.5  # a pod keeps it for longer


class Keeping:
    """Asks pods, again and again as long as they are held."""

    def __init__(self, client: PodClient) -> None:
        self._client = client
        self._asking: set[asyncio.Task[None]] = set()
        self._closed = False

    def keep(self, call: Call, pod: Pod, now_s: float) -> None:
        """This pod is held for this request."""
        if self._closed or now_s < call.kept_s + AGAIN_S:
            return
        call.kept_s = now_s
        task = asyncio.create_task(self._ask(call, pod), name=f"keep {pod.found.name}")
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def close(self) -> None:
        """Ask no more."""
        self._closed = True
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    async def _ask(self, call: Call, pod: Pod) -> None:
        try:
            kept = await self._client.keep(pod)
        except (aiohttp.ClientError, OSError, TimeoutError):
            kept = False  # what has become of it its report says
        if not kept and call.held == pod.found.name:
            call.hold(None)  # another pod may be freer to do so
