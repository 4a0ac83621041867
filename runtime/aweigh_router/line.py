"""The line that requests wait in: fair between tenants, bounded, in order. Pure.

Each tenant has a count of the tokens that it was served. Whoever has the smallest is next, so that
all who wait get as much; a tenant that was away begins where the others of its priority are.
"""

import heapq
from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

MOST_TENANTS = 4096  # that are remembered: more keys than a Secret can hold

_arrivals = count()

# Priorities: who has a smaller one is always before others.
NO_ROOM_NEEDED = 0
ACCUSED = 1  # two pods have died of it or beside it, before anything of it came: most likely of it
BROKEN_OFF = 2  # a stream whose client sees that it stands still
HIGH, NORMAL, LOW = 3, 4, 5  # by its key


class LineFull(Exception):
    """Nobody may join now, or not this tenant."""

    def __init__(self, waiting: int, limit: int, *, of_tenant: bool) -> None:
        whose = "of this API key " if of_tenant else ""
        super().__init__(f"{waiting} requests {whose}wait already; at most {limit} may.")


@dataclass(slots=True, eq=False)
class Ticket:
    """A request in the line."""

    tenant: bytes
    since_s: float
    priority: int = NORMAL
    cost: int = 1  # tokens that it is charged with when its turn has come
    waits: bool = field(default=False, init=False)
    arrival: int = field(default_factory=lambda: next(_arrivals), init=False)

    def __lt__(self, other: "Ticket") -> bool:
        return (self.priority, self.arrival) < (other.priority, other.arrival)


Waits = TypeVar("Waits", bound=Ticket)


class Line(Generic[Waits]):
    """All requests that wait."""

    def __init__(self, limit: int) -> None:
        """`limit` is how many may wait; one tenant among several may fill half of it."""
        self._limit = limit
        self._waiting: dict[bytes, list[Waits]] = {}  # by tenant, none of them empty
        self._served: dict[bytes, float] = {}
        self._last: dict[int, bytes] = {}  # whose turn came last, by priority
        self._num_waiting = 0

    def __len__(self) -> int:
        return self._num_waiting

    def oldest_s(self) -> float | None:
        """Since when the one waits that waits longest."""
        return min((each.since_s for one in self._waiting.values() for each in one), default=None)

    def join(self, ticket: Waits, num_tenants: int = 1) -> None:
        """Wait.

        Args:
            ticket: who.
            num_tenants: that there are: none of several may fill the line alone.

        Raises:
            LineFull: too many do already.
        """
        own = len(self._waiting.get(ticket.tenant, ()))
        if self._num_waiting >= self._limit:
            raise LineFull(self._num_waiting, self._limit, of_tenant=False)
        if num_tenants > 1 and own >= max(1, self._limit // 2):
            raise LineFull(own, max(1, self._limit // 2), of_tenant=True)
        if ticket.priority != NO_ROOM_NEEDED:  # that costs nobody a turn
            self._catch_up(ticket)
        self.put_back(ticket)

    def put_back(self, ticket: Waits) -> None:
        """Wait again, in the place where it was; there is always room for it."""
        insort(self._waiting.setdefault(ticket.tenant, []), ticket)
        self._num_waiting += 1
        ticket.waits = True

    def take(self, ticket: Waits) -> None:
        """Its turn has come. It is charged for, once: it may have to come back."""
        self.leave(ticket)
        self.charge(ticket.tenant, ticket.cost)
        ticket.cost = 0
        self._last[ticket.priority] = ticket.tenant

    def leave(self, ticket: Waits) -> None:
        """It does not wait any more."""
        own = self._waiting[ticket.tenant]
        own.remove(ticket)
        if not own:
            del self._waiting[ticket.tenant]
        self._num_waiting -= 1
        ticket.waits = False

    def charge(self, tenant: bytes, tokens: int) -> None:
        """The tenant was served so many tokens."""
        self._served[tenant] = self._served.get(tenant, 0.0) + tokens
        if len(self._served) > MOST_TENANTS:
            self._forget()

    def needs_no_room(self) -> bool:
        """Whether anybody waits who goes also to pods that are full. O(tenants)."""
        return any(own[0].priority == NO_ROOM_NEEDED for own in self._waiting.values())

    def in_order(self) -> Iterator[Waits]:
        """Who waits, in the order of turns. Each may be taken before the next is asked for."""
        turns = [
            (own[0].priority, self._served.get(tenant, 0.0), own[0].arrival, 0, own)
            for tenant, own in ((tenant, list(own)) for tenant, own in self._waiting.items())
        ]
        heapq.heapify(turns)
        while turns:
            _, served, _, index, own = heapq.heappop(turns)
            served += own[index].cost
            yield own[index]
            index += 1
            if index < len(own):
                after = own[index]
                entry = (after.priority, served, after.arrival, index, own)
                heapq.heappush(turns, entry)

    def _catch_up(self, ticket: Waits) -> None:
        """Nobody saves up turns while away. If no rival waits, who had the last turn is one."""
        priority, own = ticket.priority, self._served.get(ticket.tenant, 0.0)
        rivals = {each for each, waits in self._waiting.items() if waits[-1].priority == priority}
        rivals = rivals or {self._last.get(priority, ticket.tenant)}
        least = min(self._served.get(each, 0.0) for each in rivals)
        self._served[ticket.tenant] = max(own, least)

    def _forget(self) -> None:
        """Of those who do not wait, the ones that were served least."""
        kept = self._waiting.keys() | self._last.values()
        away = [each for each in self._served if each not in kept]
        away.sort(key=self._served.__getitem__)
        for tenant in away[: MOST_TENANTS // 2]:
            del self._served[tenant]
