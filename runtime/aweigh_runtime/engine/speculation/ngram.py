"""Drafts what followed the last tokens when they stood earlier in prompt or answer.

Pure Python. Finding costs O(1) a token: each answer has an index of where every run of a few
tokens ended last (prompt lookup decoding; Saxena, 2023).
"""

from collections.abc import Sequence

from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.sampling.verification import Drafted
from aweigh_runtime.engine.speculation.proposer import Asked, Proposal

LONGEST, SHORTEST = 4, 2  # tokens of a run; the longest that is found counts


class Index:
    """Where runs of tokens ended last, for one growing list of tokens."""

    __slots__ = ("_ends", "_read", "_tokens")

    def __init__(self, tokens: list[int]) -> None:
        """Take a list that only grows: it is read when something is looked up."""
        self._tokens = tokens
        self._read = 0
        # By length and run: the position after it, but never after the last token of the list.
        self._ends: dict[tuple[int, ...], int] = {}

    def following(self, count: int) -> list[int]:
        """At most `count` tokens that came after what the list ends with now; it may be none.

        A run that overlaps its own continuation goes on as it repeats itself.
        """
        self._extend()
        tokens = self._tokens
        for length in range(min(LONGEST, len(tokens)), SHORTEST - 1, -1):
            end = self._ends.get(tuple(tokens[-length:]))
            if end is not None:
                period = len(tokens) - end
                return [tokens[end + place % period] for place in range(count)]
        return []

    def _extend(self) -> None:
        """Read what is new, all but runs that end with the last token: they are looked up."""
        tokens, ends = self._tokens, self._ends
        for end in range(max(self._read, SHORTEST), len(tokens)):
            for length in range(SHORTEST, min(LONGEST, end) + 1):
                ends[tuple(tokens[end - length : end])] = end
        self._read = len(tokens)


class NGram:
    """Proposes by looking up. It needs no model and no memory of the device."""

    name = "n-gram lookup"
    stops_early = False
    holds_memory = False

    def propose(self, asked: Sequence[Asked], stays: Sequence[float]) -> list[Proposal]:
        """Draft for each answer that asks; a confidence is not known."""
        del stays
        return [Proposal(Drafted(self._index(each.request).following(each.room))) for each in asked]

    def release(self) -> None:
        """There is nothing to give back."""

    def _index(self, request: Request) -> Index:
        history = request.history
        assert history is not None
        if history.index is None:
            history.index = Index(request.tokens)
        return history.index
