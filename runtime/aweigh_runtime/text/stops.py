"""Ends an answer at a stop string, also where the string spans several tokens."""

from collections.abc import Sequence


class StopFinder:
    """Lets text through, but holds back an ending that may become a stop string."""

    def __init__(self, stops: Sequence[str], *, keep: bool = False) -> None:
        self._stops = [stop for stop in stops if stop]
        self._keep = keep  # the stop string itself is part of the answer
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """The text that is certain to stand in the answer; the first of several stops ends it."""
        self._held += text
        spans = [(at, at + len(s)) for s in self._stops if (at := self._held.find(s)) >= 0]
        if spans:
            self.found = True
            begin, end = min(spans)
            return self._release(end if self._keep else begin, drop=True)
        return self._release(len(self._held) - self._undecided(), drop=False)

    def finish(self) -> str:
        """What was held back, once nothing more comes."""
        return self._release(len(self._held), drop=True)

    def _release(self, length: int, *, drop: bool) -> str:
        released, self._held = self._held[:length], "" if drop else self._held[length:]
        return released

    def _undecided(self) -> int:
        """Length of the longest ending that begins a stop string."""
        return max((_overlap(self._held, stop) for stop in self._stops), default=0)


def _overlap(text: str, stop: str) -> int:
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
