"""Where runs of tokens stood in a list that grows. Reading and finding cost O(1) a token."""

from array import array

LONGEST, SHORTEST = 4, 2  # tokens of a run; the longest that is found counts
PLACES = 8  # where the shortest run stood last: that many are looked at
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
