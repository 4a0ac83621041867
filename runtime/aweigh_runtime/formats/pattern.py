"""Regular expressions that a checkpoint brings along, matched in bounded time.

Python's own matcher tries one way after the other, and a hostile expression makes it try for ages.
This one keeps the set of all places that can be reached (Thompson 1968), which decides the same
question, whether an expression matches a beginning, and counts its steps. It captures nothing.
"""

import re
from collections.abc import Callable, Sequence

MAX_LENGTH = 1024  # characters of an expression
MAX_STEPS = 50_000  # a match; one that people write takes some hundreds
_MAX_DEPTH = 32  # groups within groups
_COUNTED = re.compile(r"\{(?:(\d+)|(\d*),(\d*))\}", re.ASCII)
_MAX_COUNT = 9999
_SET_OPERATIONS = ("--", "&&", "~~", "||")  # in classes; reserved by Python
_LOOKS = {"(?=": True, "(?!": False}


class PatternError(ValueError):
    """An expression that is not read here, or takes too long; the message says why."""


class Pattern:
    """A regular expression: literals, classes, groups, alternatives, repetition, looking ahead.

    Raises:
        PatternError: it is not one, or uses more than this.
    """

    def __init__(self, source: str) -> None:
        if len(source) > MAX_LENGTH:
            raise PatternError(f"it has {len(source)} characters; expected at most {MAX_LENGTH}")
        self._reach = _Parser(source).whole()
        try:
            re.compile(source)
        except re.error as error:
            raise PatternError(f"it is none: {error}") from error

    def matches(self, text: str) -> bool:
        """Whether the text begins so, like `re.match`.

        Raises:
            PatternError: finding out takes too many steps.
        """
        return bool(self._reach(_Walk(text), {0}))


class _Walk:
    """A text, and how many steps may still be spent on it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._steps_left = MAX_STEPS

    def spend(self, num_steps: int) -> None:
        self._steps_left -= num_steps
        if self._steps_left < 0:
            raise PatternError(f"it takes more than {MAX_STEPS} steps to match {self.text[:80]!r}")


_Reach = Callable[[_Walk, set[int]], set[int]]  # from these places of the text to those


class _Parser:
    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0
        self._depth = 0

    def whole(self) -> _Reach:
        reach = self._alternatives()
        if self._at < len(self._source):
            raise PatternError("it closes a group that it never opened")
        return reach

    def _alternatives(self) -> _Reach:
        options = [self._sequence()]
        while self._takes("|"):
            options.append(self._sequence())
        return options[0] if len(options) == 1 else _either(options)

    def _sequence(self) -> _Reach:
        items = []
        while self._at < len(self._source) and self._source[self._at] not in "|)":
            items.append(self._repetition(self._item()))
        return _all(items)

    def _item(self) -> _Reach:
        if self._takes("("):
            return self._group()
        if self._takes("^"):
            return lambda _walk, starts: starts & {0}
        if self._takes("$"):
            return lambda walk, starts: starts & {len(walk.text)}
        start = self._at
        self._at += 1
        first = self._source[start]
        if first == "[":
            return _of_class(self._bracket(start))
        if first == "\\":
            return self._escape()
        if first == ".":
            return _any_character
        if first in "*+?":
            raise PatternError(f"nothing stands before {first!r} at {start}")
        return _literal(first)

    def _group(self) -> _Reach:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise PatternError(f"it nests more than {_MAX_DEPTH} groups")
        kind = self._source[self._at - 1 : self._at + 2]
        if kind.startswith("(?"):
            if kind not in ("(?:", *_LOOKS):
                raise PatternError(f"{kind!r} is not supported; supported: (?: (?= (?!")
            self._at += 2
        reach = self._alternatives()
        if not self._takes(")"):
            raise PatternError("it does not close a group")
        self._depth -= 1
        return _look(reach, _LOOKS[kind]) if kind in _LOOKS else reach

    def _bracket(self, start: int) -> str:
        """The class of characters that begins at `start`."""
        self._takes("^")
        self._takes("]")
        while not self._takes("]"):
            if self._source[self._at : self._at + 1] in ("", "["):
                raise PatternError("a class of characters is not closed, or holds a bracket")
            self._at += 2 if self._source[self._at] == "\\" else 1
        return self._source[start : self._at]

    def _escape(self) -> _Reach:
        letter = self._source[self._at : self._at + 1]
        self._at += 1
        if letter and letter in "dDwWsS":
            return _of_class(f"\\{letter}")
        if not letter or letter.isalnum():
            raise PatternError(f"'\\{letter}' is not supported; supported: \\d \\w \\s \\.")
        return _literal(letter)

    def _repetition(self, reach: _Reach) -> _Reach:
        bounds = self._bounds()
        if bounds is None:
            return reach
        self._takes("?")  # least first: the same question
        if self._source[self._at : self._at + 1] in ("*", "+", "?"):
            raise PatternError(f"it repeats a repetition at {self._at}")
        return _repeated(reach, *bounds)

    def _bounds(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._takes(sign):
                return bounds
        counted = _COUNTED.match(self._source, self._at)
        if counted is None:
            return None
        self._at = counted.end()
        exactly, low, high = counted.groups()
        if any(int(count or 0) > _MAX_COUNT for count in counted.groups()):
            raise PatternError(f"it repeats {counted.group()}; expected at most {_MAX_COUNT} times")
        if exactly is not None:
            return int(exactly), int(exactly)
        return int(low or 0), int(high) if high else None

    def _takes(self, sign: str) -> bool:
        found = self._source.startswith(sign, self._at)
        self._at += found
        return found


def _all(items: Sequence[_Reach]) -> _Reach:
    def reach(walk: _Walk, starts: set[int]) -> set[int]:
        for item in items:
            starts = item(walk, starts)
            if not starts:
                break
        return starts

    return reach


def _either(options: Sequence[_Reach]) -> _Reach:
    return lambda walk, starts: set().union(*(option(walk, starts) for option in options))


def _repeated(body: _Reach, low: int, high: int | None) -> _Reach:
    def reach(walk: _Walk, starts: set[int]) -> set[int]:
        for _ in range(low):
            walk.spend(1)
            starts = body(walk, starts)
        found, new, count = set(starts), starts, low
        while new and (high is None or count < high):
            new = body(walk, new) - found
            found |= new
            count += 1
        return found

    return reach


def _look(ahead: _Reach, wanted: bool) -> _Reach:
    return lambda walk, starts: {at for at in starts if bool(ahead(walk, {at})) == wanted}


def _literal(character: str) -> _Reach:
    return _of(lambda found: found == character)


def _of_class(source: str) -> _Reach:
    if any(sign in source for sign in _SET_OPERATIONS):
        raise PatternError(f"{source!r} may mean an operation on sets; write each sign once")
    try:
        fits = re.compile(source).fullmatch
    except re.error as error:
        raise PatternError(f"{source!r} is no class of characters: {error}") from error
    return _of(lambda found: fits(found) is not None)


def _of(fits: Callable[[str], bool]) -> _Reach:
    def reach(walk: _Walk, starts: set[int]) -> set[int]:
        walk.spend(len(starts))
        return {at + 1 for at in starts if at < len(walk.text) and fits(walk.text[at])}

    return reach


_any_character = _of(lambda _found: True)
