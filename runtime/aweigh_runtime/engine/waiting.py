"""The requests that wait for their turn. Pure.

Lower priorities first; among equals the tenants take turns by start-time fair queueing (Goyal, Vin
and Cheng 1996): a request's turn comes when its tenant's earlier ones have had theirs, so that one
tenant's burst does not make the others wait for all of it. With one tenant this is the order of
arrival. A request that was preempted keeps its turn.
"""

import heapq

from aweigh_runtime.engine.request import Request

_Order = tuple[int, float, int]  # priority, turn, arrival
_SPARE = 64


class WaitingLine:
    """An ordered line; each operation costs O(log of its length)."""

    def __init__(self) -> None:
        self._heap: list[tuple[_Order, Request]] = []
        self._length = 0  # the heap also holds some that are gone
        self._arrivals = 0
        self._now = 0.0  # turn of the request that was admitted last
        self._last_turn: dict[bytes, float] = {}  # of each tenant: one for each API key
        self.prompt_tokens = 0

    def __len__(self) -> int:
        return self._length

    def join(self, request: Request) -> None:
        """Give a new request its turn."""
        turn = max(self._now, self._last_turn.get(request.tenant, -1.0) + 1.0)
        self._last_turn[request.tenant] = turn
        self._arrivals += 1
        request.order = (request.priority, turn, self._arrivals)
        self.rejoin(request)

    def rejoin(self, request: Request) -> None:
        """Put a request that has its turn back into the line."""
        self._length += 1
        self.prompt_tokens += request.num_prompt_tokens
        heapq.heappush(self._heap, (request.order, request))

    def first(self) -> Request | None:
        """Whose turn it is."""
        while self._heap and self._heap[0][1].gone:
            heapq.heappop(self._heap)
        return self._heap[0][1] if self._heap else None

    def admit_first(self) -> None:
        """The first one leaves to run."""
        _, request = heapq.heappop(self._heap)
        self._now = max(self._now, request.order[1])
        self._count_out(request)

    def leave(self, request: Request) -> None:
        """One that waits anywhere is gone."""
        request.gone = True
        self._count_out(request)
        if len(self._heap) > 2 * self._length + _SPARE:
            self._heap = [entry for entry in self._heap if not entry[1].gone]
            heapq.heapify(self._heap)

    def _count_out(self, request: Request) -> None:
        self._length -= 1
        self.prompt_tokens -= request.num_prompt_tokens
