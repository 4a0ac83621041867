"""The router as a model: one line before all pods, and the real one's choice of a pod."""

from collections import deque
from collections.abc import Sequence

from aweigh_api.router_state import RouterState
from aweigh_bench.scaling.pod import Pod
from aweigh_bench.scaling.traces import Request
from aweigh_router import choice
from aweigh_router.shares import Shares

TICK_S = 0.05  # after which requests that wait are looked at again


class Router:
    """Holds requests until a pod has room; whoever plays the trace runs the pods."""

    def __init__(self) -> None:
        self._line: deque[Request] = deque()
        self._shares = Shares()
        self._arrived = self._sent = 0

    @property
    def num_waiting(self) -> int:
        """Requests that no pod has taken."""
        return len(self._line)

    def take(self, request: Request) -> None:
        """One more waits."""
        self._arrived += 1
        if request.group >= 0:
            self._shares.add(_key(request.group), 1, request.arrives_s)
        self._line.append(request)

    def send(self, pods: Sequence[Pod], now_s: float) -> None:
        """Whoever waits goes to a pod that can begin at once; these have run until now."""
        rooms = {pod.uid: pod.room for pod in pods}
        by_uid = {pod.uid: pod for pod in pods}
        while self._line and any(rooms.values()):
            request = self._line.popleft()
            self._sent += 1
            uid = self._choose(request, by_uid, rooms, now_s)
            by_uid[uid].take(request)
            rooms[uid] = by_uid[uid].room

    def _choose(
        self, request: Request, pods: dict[str, Pod], rooms: dict[str, int], now_s: float
    ) -> str:
        loads = {uid: pod.num_running + pod.num_waiting for uid, pod in pods.items()}
        prefix = _key(request.group) if request.group >= 0 else _key(self._arrived, "alone")
        share = self._shares.of(prefix, now_s)
        wanted = choice.order(prefix, _key(self._sent, "chat"), share, list(pods))
        found = choice.pick(wanted, loads, lambda uid: rooms[uid] > 0)
        assert found is not None, "some pod has room"
        return found

    def report(self, now_s: float) -> RouterState:
        """What it says of itself."""
        oldest_s = now_s - self._line[0].arrives_s if self._line else None
        return RouterState(
            boot_id="router",
            uptime_s=now_s,
            phase="ready",
            arrived_requests=self._arrived,
            waiting=len(self._line),
            oldest_waiting_s=oldest_s,
            in_flight=0,
        )


def _key(number: int, kind: str = "group") -> bytes:
    return f"{kind} {number}".encode()
