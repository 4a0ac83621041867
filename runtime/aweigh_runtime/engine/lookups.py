"""Which prompt blocks are asked for again and again, and by whom. Pure: time is an argument.

A block is hot while it was looked up at least twice within the window, found or not: on a server
whose cache is too small nothing is found, and that is when it matters. It is the caller's that
asked last. Hot blocks are protected, up to half of the memory and until their caller has asked for
several times the memory's worth of others; beyond its share of that half a caller gives way.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aweigh_runtime.engine.naming import Name

WINDOW_S = 300.0
MAX_NAMES = 1 << 18  # about 90 MB; beyond that the window gets shorter
_PROTECTED_SHARE = 0.5  # of the memory; more would leave nothing for new requests
_TURNS = 4  # of the memory: what comes back later than that saves less than its room is worth


@dataclass(slots=True, eq=False)
class _Caller:
    """Who has asked within the window."""

    seen_s: float
    asked: int = 0  # blocks that were not protected when it asked for them
    protected: OrderedDict[Name, int] = field(default_factory=OrderedDict)  # `asked` at that time


# When it was last, whose, whether it was not the first. Without references that the garbage
# collector would have to follow: there are many.
_Lookup = tuple[float, bytes, bool]


class Lookups:
    """The names that were looked up in the last minutes. Each operation costs O(names, callers)."""

    def __init__(
        self,
        num_blocks: int,
        on_cooled: Callable[[Name], bool] = lambda name: False,
        window_s: float = WINDOW_S,
        max_names: int = MAX_NAMES,
    ) -> None:
        """Know nothing yet.

        Args:
            num_blocks: in the memory.
            on_cooled: told which names were protected and are not; returns whether room was made.
            window_s: how long a lookup counts.
            max_names: most names that are remembered.
        """
        self._max_protected = int(num_blocks * _PROTECTED_SHARE)
        self._max_asked = num_blocks * _TURNS
        self._on_cooled = on_cooled
        self._window_s = window_s
        self._max_names = max_names
        self._last: OrderedDict[Name, _Lookup] = OrderedDict()  # longest ago first
        self._callers: OrderedDict[bytes, _Caller] = OrderedDict()  # longest unseen first
        self._num_protected = 0
        self.num_hot = 0

    def record(self, caller: bytes, names: Sequence[Name], now_s: float) -> None:
        """One request has asked for these blocks."""
        self.forget_old(now_s)
        own = self._seen(caller, now_s)
        for name in reversed(names):  # a prefix is of no use without its head: that cools last
            known = self._last.get(name)
            self._last[name] = (now_s, caller, known is not None)
            if known is None:
                own.asked += 1
            else:
                self._last.move_to_end(name)
                self._protect(name, own, known)
        self._cool_stale(own)
        self._cool_excess()
        while len(self._last) > self._max_names:
            self._forget()

    def protects(self, name: Name) -> bool:
        """Whether a block must not go to admit one more request."""
        known = self._last.get(name)
        return known is not None and name in self._callers[known[1]].protected

    def give_way(self, caller: bytes, count: int) -> int:
        """Make room for a caller, up to `count` blocks, of what others protect beyond their shares.

        Returns how many it has become.
        """
        own, room = self._callers.get(caller), 0
        for other in self._callers.values():
            while other is not own and len(other.protected) > self._share and room < count:
                room += self._cool(other)
        return room

    def forget_old(self, now_s: float) -> None:
        """Drop what left the window."""
        while self._last and now_s - next(iter(self._last.values()))[0] > self._window_s:
            self._forget()
        while self._callers and now_s - next(iter(self._callers.values())).seen_s > self._window_s:
            self._callers.popitem(last=False)

    @property
    def _share(self) -> int:
        return self._max_protected // len(self._callers)

    def _seen(self, caller: bytes, now_s: float) -> _Caller:
        own = self._callers.get(caller)
        if own is None:
            own = self._callers[caller] = _Caller(now_s)
        self._callers.move_to_end(caller)
        own.seen_s = now_s
        return own

    def _protect(self, name: Name, own: _Caller, known: _Lookup) -> None:
        _, before, hot = known
        if not hot:
            self.num_hot += 1
        if name in own.protected:
            own.protected.move_to_end(name)
        elif self._callers[before].protected.pop(name, None) is None:
            own.asked += 1
            self._num_protected += 1
        own.protected[name] = own.asked

    def _cool_stale(self, own: _Caller) -> None:
        oldest = own.asked - self._max_asked
        while own.protected and next(iter(own.protected.values())) < oldest:
            self._cool(own)

    def _cool_excess(self) -> None:
        if self._num_protected <= self._max_protected:
            return
        for caller in self._callers.values():
            while len(caller.protected) > self._share and self._num_protected > self._max_protected:
                self._cool(caller)

    def _cool(self, caller: _Caller) -> bool:
        """Of what a caller protects, what it has not asked for the longest."""
        name, _ = caller.protected.popitem(last=False)
        self._num_protected -= 1
        return self._on_cooled(name)

    def _forget(self) -> None:
        name, (_, caller, hot) = self._last.popitem(last=False)
        if hot:
            self.num_hot -= 1
        if self._callers[caller].protected.pop(name, None) is not None:
            self._num_protected -= 1
            self._on_cooled(name)
