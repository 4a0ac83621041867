"""Drafts what followed the last tokens when they stood earlier in prompt or answer.

Pure Python (prompt lookup decoding; Saxena, 2023). Reading and finding cost O(1) a token, and what
is new is read over several steps where it is much: nobody waits for it.
"""

from array import array
from collections.abc import Sequence

from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.sampling.verification import Drafted
from aweigh_runtime.engine.speculation.proposer import Asked, Proposal

LONGEST, SHORTEST = 4, 2  # tokens of a run; the longest that is found counts
PLACES = 8  # where the shortest run stood last: that many are looked at
READ_AT_ONCE = 8192  # tokens of all answers in one step: about 3 ms
INDEXED = 16_384  # tokens of a prompt: its last ones
_TOKEN_BITS = 32


class Index:
    """Where runs of tokens ended, for one growing list of tokens.

    About 130 bytes a token while no pair of tokens comes twice, 4 where they do.
    """

    __slots__ = ("_before", "_first", "_last", "_tokens")

    def __init__(self, tokens: list[int]) -> None:
        """Take a list that only grows: it is read when something is looked up."""
        self._tokens = tokens
        # A place is the position after a pair of tokens, but never after the list's last one.
        self._last: dict[int, int] = {}  # the last place of each pair
        # The place of the same pair before each place, from the first one on; 0: none.
        self._before = array("i")
        self._first = max(SHORTEST, len(tokens) - INDEXED)

    @property
    def unread(self) -> int:
        """Tokens that `following` would miss."""
        return max(len(self._tokens) - self._first - len(self._before), 0)

    def read(self, count: int) -> None:
        """Read so many more tokens."""
        tokens, before, last = self._tokens, self._before, self._last
        first = self._first + len(before)
        for end in range(first, min(len(tokens), first + count)):
            pair = tokens[end - 2] << _TOKEN_BITS | tokens[end - 1]
            before.append(last.get(pair, 0))
            last[pair] = end

    def following(self, count: int) -> list[int]:
        """At most `count` tokens that came after what the list ends with now; it may be none.

        A run that overlaps its own continuation goes on as it repeats itself.
        """
        tokens = self._tokens
        end = self._end() if len(tokens) > SHORTEST else 0
        period = len(tokens) - end
        return [tokens[end + place % period] for place in range(count)] if end else []

    def _end(self) -> int:
        """The place after the longest run that is like the last one; 0: there is none."""
        tokens = self._tokens
        place = self._last.get(tokens[-2] << _TOKEN_BITS | tokens[-1], 0)
        best, longest = 0, 0
        for _ in range(PLACES):
            if not place or longest == LONGEST:
                break
            length = SHORTEST
            while length < min(LONGEST, place) and tokens[place - length - 1] == tokens[~length]:
                length += 1
            if length > longest:
                best, longest = place, length
            place = self._before[place - self._first]
        return best


class NGram:
    """Proposes by looking up. It needs no model and no memory of the device."""

    name = "n-gram lookup"
    stops_early = False
    holds_memory = False

    def propose(self, asked: Sequence[Asked], stays: Sequence[float]) -> list[Proposal]:
        """Draft for each answer that asks; a confidence is not known."""
        del stays
        left = READ_AT_ONCE
        proposals = []
        for each in asked:
            index = self._index(each.request)
            unread = index.unread
            index.read(left)
            left -= min(unread, left)
            ready = index.unread == 0
            drafted = Drafted(index.following(each.room) if ready else ())
            proposals.append(Proposal(drafted, ready=ready))
        return proposals

    def release(self) -> None:
        """There is nothing to give back."""

    def _index(self, request: Request) -> Index:
        history = request.history
        assert history is not None
        if history.index is None:
            history.index = Index(request.tokens)
        return history.index
