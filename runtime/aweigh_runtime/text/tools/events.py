"""What an answer's text turns out to be, piece by piece. Nothing here knows HTTP or tokens."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Content:
    """Text for people."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """The model calls a function that the request has named."""

    index: int  # of the call within its answer
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """More of the JSON text of a call's arguments."""

    index: int
    text: str


Event = Content | ToolCallStart | ToolCallArguments


class Reader(Protocol):
    """Reads one answer as it grows. How the text is cut never changes what it says in the end."""

    def feed(self, text: str) -> list[Event]:
        """What this text settles; the rest is held until more is known."""
        ...

    def finish(self) -> list[Event]:
        """What was held, once nothing more comes."""
        ...


class PlainReader:
    """The reader where there are no tools: everything is content, nothing is held."""

    def feed(self, text: str) -> list[Event]:
        """The text itself."""
        return [Content(text)] if text else []

    def finish(self) -> list[Event]:
        """Nothing."""
        return []
