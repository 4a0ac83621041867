"""The requests that wait for their turn. Pure.

The callers take turns, one request each, by start-time fair queueing (Goyal, Vin and Cheng 1996):
one caller's burst makes nobody else wait for all of it. Of one caller's requests those of lower
priority come first, then those that arrived first. A request that was preempted keeps its place.

Requests whose prompts are scored stand in lines of their own: a step scores few tokens, and who
waits for that holds up nobody else.
"""

import heapq

from aweigh_runtime.engine.request import Request

_Place = tuple[int, int]  # priority, arrival
_Of = tuple[bytes, bool]  # a caller, and whether the prompts are scored
_SPARE = 64


class WaitingLine:
    """Two lines for each caller. Each operation costs O(callers that wait + log of a line)."""

    def __init__(self) -> None:
        self._lines: dict[_Of, _Line] = {}  # those in which somebody waits
        self._owed: dict[bytes, float] = {}  # next turn of each caller: one for each API key
        self._now = 0.0  # turn of the request that was admitted last
        self._arrivals = 0
        self._first: dict[bool, Request | None] = {}  # of all, or of those that are not scored
        self.prompt_tokens = 0
        self.requests = 0.0  # of several answers to one prompt each counts as its part

    def __len__(self) -> int:
        return sum(line.length for line in self._lines.values())

    def join(self, request: Request) -> None:
        """A new request arrives."""
        self._arrivals += 1
        request.arrival = self._arrivals
        self._enter(request)

    def rejoin(self, request: Request) -> None:
        """A request that had its turn needs another one."""
        self._owed[request.caller] = self._owed.get(request.caller, self._now) - 1.0
        self._enter(request)

    def first(self, *, scored: bool = True) -> Request | None:
        """Whose turn it is; without `scored`, whose prompt is not scored."""
        if scored not in self._first:
            lines = {of: line for of, line in self._lines.items() if scored or not of[1]}
            place = min(lines, key=lambda of: (self._turn(of[0]), lines[of].head), default=None)
            self._first[scored] = None if place is None else lines[place].first
        return self._first[scored]

    def admit(self, request: Request) -> None:
        """One that was first leaves to run."""
        self._now = self._turn(request.caller)
        self._owed[request.caller] = self._now + 1.0
        self._lines[_of(request)].pop()
        self._count_out(request)

    def leave(self, request: Request) -> None:
        """One that waits anywhere is gone."""
        request.gone = True
        self._lines[_of(request)].forget_gone()
        self._count_out(request)

    def _turn(self, caller: bytes) -> float:
        """Who has not waited for long owes nothing, and is owed nothing."""
        return max(self._now, self._owed.get(caller, 0.0))

    def _enter(self, request: Request) -> None:
        self._lines.setdefault(_of(request), _Line()).push(request)
        self.prompt_tokens += request.num_prompt_tokens
        self.requests += 1.0 / request.choices
        self._first.clear()

    def _count_out(self, request: Request) -> None:
        if not self._lines[_of(request)].length:
            del self._lines[_of(request)]
        self.prompt_tokens -= request.num_prompt_tokens
        self.requests = self.requests - 1.0 / request.choices if self._lines else 0.0
        self._first.clear()


def _of(request: Request) -> _Of:
    return request.caller, request.prompt_logprobs is not None


class _Line:
    """One caller's requests. The heap may hold some that are gone, but never at its head."""

    def __init__(self) -> None:
        self._heap: list[tuple[_Place, Request]] = []
        self.length = 0

    @property
    def head(self) -> _Place:
        """Place of the first one."""
        return self._heap[0][0]

    @property
    def first(self) -> Request:
        """The first one."""
        return self._heap[0][1]

    def push(self, request: Request) -> None:
        """One more."""
        heapq.heappush(self._heap, ((request.priority, request.arrival), request))
        self.length += 1

    def pop(self) -> None:
        """The first one leaves."""
        heapq.heappop(self._heap)
        self.length -= 1
        self._uncover()

    def forget_gone(self) -> None:
        """One of them is gone."""
        self.length -= 1
        if len(self._heap) > 2 * self.length + _SPARE:
            self._heap = [entry for entry in self._heap if not entry[1].gone]
            heapq.heapify(self._heap)
        self._uncover()

    def _uncover(self) -> None:
        while self._heap and self._heap[0][1].gone:
            heapq.heappop(self._heap)
