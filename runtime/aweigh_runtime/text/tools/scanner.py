"""Runs a format's scanner over an answer, character by character. It never looks back.

A scanner is a generator. It looks at `cursor.char`, the next character ("" at the answer's end),
takes it, and yields to wait for another. What it has taken is held until it knows what that is:
content, arguments or markup. Every character is taken once, so time grows with the text, and the
outcome depends on the characters alone, not on how they arrive.
"""

import secrets
from collections.abc import Callable, Generator, Mapping
from typing import Any

from aweigh_runtime.text.tools.events import Content, Event, ToolCallArguments, ToolCallStart

Schema = Mapping[str, Any]
BLANK = " \t\r\n"


class Cursor:
    """A scanner's place in the answer, and what it has found there."""

    def __init__(
        self, tools: Mapping[str, Schema], most_calls: int | None, new_id: Callable[[], str]
    ) -> None:
        self.tools = tools
        self.char = ""
        self.held: list[str] = []  # taken and not decided
        self.num_calls = 0
        self.blank = True  # nothing but blanks since the answer's start or the last call
        self._most_calls = most_calls
        self._new_id = new_id
        self._events: list[Event] = []
        self._run: list[str] = []  # text of the next event, still growing
        self._run_of: int | None = None  # the call it belongs to

    def take(self) -> None:
        """Hold this character. The scanner yields after it, to get the next one."""
        self.held.append(self.char)

    def release(self) -> None:
        """What is held is content."""
        if self.held:
            self._grow(None, "".join(self.held))
            self.held.clear()
            self.blank = False

    def drop(self) -> None:
        """What is held is markup."""
        self.held.clear()

    def start(self, name: str) -> None:
        """What is held begins a call."""
        self.drop()
        self.num_calls += 1
        self.blank = True
        if self._wanted:
            self._settle()
            self._events.append(ToolCallStart(self.num_calls - 1, self._new_id(), name))

    def arguments(self, text: str) -> None:
        """More arguments of the last call."""
        if self._wanted:
            self._grow(self.num_calls - 1, text)

    def pass_arguments(self) -> None:
        """What is held belongs to the arguments of the last call."""
        self.arguments("".join(self.held))
        self.drop()

    def events(self) -> list[Event]:
        """What was found since the last time."""
        self._settle()
        events, self._events = self._events, []
        return events

    @property
    def holds_blanks(self) -> bool:
        """Nothing else is held."""
        return all(char in BLANK for char in self.held)

    @property
    def _wanted(self) -> bool:
        return self._most_calls is None or self.num_calls <= self._most_calls

    def _grow(self, call: int | None, text: str) -> None:
        """More text of a call's arguments; of no call: content."""
        if call != self._run_of:
            self._settle()
            self._run_of = call
        self._run.append(text)

    def _settle(self) -> None:
        """Make an event of the text that has grown."""
        text = "".join(self._run)
        self._run.clear()
        if text and self._run_of is None:
            self._events.append(Content(text))
        elif text and self._run_of is not None:
            self._events.append(ToolCallArguments(self._run_of, text))


Steps = Generator[None, None, None]
Scan = Callable[[Cursor], Steps]


class ToolReader:
    """Reads one answer in one format."""

    def __init__(
        self,
        scan: Scan,
        tools: Mapping[str, Schema],
        most_calls: int | None = None,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self._cursor = Cursor(tools, most_calls, new_id or new_call_id)
        self._steps = scan(self._cursor)

    def feed(self, text: str) -> list[Event]:
        """What this text settles."""
        for char in text:
            self._step(char)
        return self._cursor.events()

    def finish(self) -> list[Event]:
        """What was held. Blanks beside calls are markup."""
        self._step("")
        if self._cursor.num_calls and self._cursor.holds_blanks:
            self._cursor.drop()
        self._cursor.release()
        return self._cursor.events()

    def _step(self, char: str) -> None:
        self._cursor.char = char
        next(self._steps, None)


def new_call_id() -> str:
    """As OpenAI's look."""
    return f"call_{secrets.token_hex(12)}"


def blanks(cursor: Cursor) -> Steps:
    """Take blanks."""
    while cursor.char and cursor.char in BLANK:
        cursor.take()
        yield


def word(cursor: Cursor, text: str) -> Generator[None, None, bool]:
    """Take this text; False: as much of it as is there."""
    return (yield from one_of(cursor, (text,))) is not None


def one_of(cursor: Cursor, texts: tuple[str, ...]) -> Generator[None, None, str | None]:
    """Take one of these texts, none of which begins another; None: as much of one as is there."""
    size = 0
    while texts := tuple(text for text in texts if text[size] == cursor.char):
        cursor.take()
        yield
        size += 1
        if len(texts[0]) == size:
            return texts[0]
    return None


def until_one_of(cursor: Cursor, markers: tuple[str, ...]) -> Generator[None, None, str | None]:
    """Let content pass up to one of these markers, which is held; None: the answer ends.

    A marker's first character occurs in it only once: where one fails, none has begun before.
    """
    firsts = {marker[0] for marker in markers}
    while cursor.char:
        if cursor.char in firsts:
            found = yield from one_of(cursor, markers)
            if found is not None:
                return found
            if cursor.char:
                cursor.release()
            continue
        passes = not cursor.blank or cursor.char not in BLANK
        cursor.take()
        if passes:
            cursor.release()
        yield
    return None
