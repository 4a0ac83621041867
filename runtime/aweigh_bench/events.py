"""Server-sent events of an OpenAI stream, read as cheaply as a load client must. No network."""

import msgspec

DATA = b"data:"
DONE = b"[DONE]"


class Details(msgspec.Struct, frozen=True):
    """Where prompt tokens came from."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """Tokens of a request so far."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: Details | None = None


class Delta(msgspec.Struct, frozen=True):
    """What a chunk adds to an answer of a chat. The rest of it does not matter here."""

    content: str | None = None
    reasoning_content: str | None = None


class Choice(msgspec.Struct, frozen=True):
    """What a chunk adds to an answer."""

    text: str | None = None
    delta: Delta | None = None

    @property
    def has_text(self) -> bool:
        """Something a reader would see."""
        delta = self.delta
        return bool(self.text or (delta and (delta.content or delta.reasoning_content)))


class Event(msgspec.Struct, frozen=True):
    """One chunk of a stream."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: msgspec.Raw | None = None


_decode = msgspec.json.Decoder(Event).decode


class NotAnEvent(ValueError):
    """The stream holds something else than OpenAI's chunks."""


class EventReader:
    """Bytes as they come become events; `done` once the server has said so."""

    def __init__(self) -> None:
        self.done = False
        self._rest = b""

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete.

        Raises:
            NotAnEvent: a data line is not JSON of the expected shape.
        """
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        found = []
        for line in lines:
            if line.startswith(DATA):
                body = line[len(DATA) :].strip()
                if body == DONE:
                    self.done = True
                else:
                    found.append(_event(body))
        return found


def _event(body: bytes) -> Event:
    try:
        return _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        shown = body[:80].decode(errors="replace")
        raise NotAnEvent(f"the stream holds {shown!r}, which is no chunk of OpenAI's") from error
