"""Which prompt blocks are asked for again and again. Pure: time comes in as an argument.

A block is hot while it was looked up at least twice within the window, found or not: on a server
whose cache is too small nothing is found, and that is when it matters.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable

from aweigh_runtime.engine.naming import Name

WINDOW_S = 300.0
MAX_NAMES = 1 << 18  # about 40 MB; beyond that the window gets shorter


class Lookups:
    """The names that were looked up in the last minutes."""

    def __init__(
        self,
        window_s: float = WINDOW_S,
        max_names: int = MAX_NAMES,
        on_cooled: Callable[[Name], None] = lambda name: None,
    ) -> None:
        """`on_cooled` is told which names were hot and are not any more."""
        self._window_s = window_s
        self._on_cooled = on_cooled
        self._max_names = max_names
        self._last: OrderedDict[Name, tuple[float, bool]] = OrderedDict()  # when; twice: hot
        self.num_hot = 0

    def record(self, names: Iterable[Name], now_s: float) -> None:
        """One request has asked for these blocks."""
        self.forget_old(now_s)
        for name in names:
            seen = self._last.pop(name, None)
            self._last[name] = (now_s, seen is not None)
            if seen is not None and not seen[1]:
                self.num_hot += 1
        while len(self._last) > self._max_names:
            self._forget()

    def hot(self, name: Name) -> bool:
        """Whether a block is asked for again and again."""
        seen = self._last.get(name)
        return seen is not None and seen[1]

    def forget_old(self, now_s: float) -> None:
        """Drop what left the window."""
        while self._last and now_s - next(iter(self._last.values()))[0] > self._window_s:
            self._forget()

    def _forget(self) -> None:
        name, (_, twice) = self._last.popitem(last=False)
        if twice:
            self.num_hot -= 1
            self._on_cooled(name)
