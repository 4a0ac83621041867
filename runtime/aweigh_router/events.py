"""A pod's stream on its way to a client: which tokens the client has, should the pod die. Pure.

Lines of comments are for the router alone and go no further. JSON is read only in the first event
and in those that end an answer; all other bytes pass as they are.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from aweigh_api.routing import RESUME_FIELD, TOKENS_COMMENT

# A string within JSON could not have this quote: there it stands behind a backslash.
_FINISH = b'finish_reason":"'
_TOKENS = TOKENS_COMMENT.encode()
_ERROR = b'data: {"error":'
_DONE = b"data: [DONE]"
_HAND_OVER = ("draining", "engine")  # codes of errors after which another pod can go on


@dataclass(slots=True)
class Progress:
    """One answer, as far as the client has it."""

    tokens: bytearray = field(default_factory=bytearray)  # ids with commas between them
    finished: bool = False


@dataclass(slots=True)
class Transcript:
    """What a client has of a stream, whichever pods it came from."""

    id: str = ""  # of the reply; empty: nothing has come
    created: int = 0
    answers: list[Progress] = field(default_factory=list)
    complete: bool = False

    @property
    def begun(self) -> bool:
        """Whether the client has a part of it."""
        return bool(self.id)

    def resume(self, body: bytes | bytearray) -> bytes:
        """The request that asks another pod for the rest.

        Args:
            body: the client's request, a JSON object with at least one field.
        """
        end = body.rindex(b"}")
        return b'%b,"%b":{"id":%b,"created":%d,"answers":[%b]}}' % (
            bytes(body[:end]),
            RESUME_FIELD.encode(),
            json.dumps(self.id).encode(),
            self.created,
            b",".join(map(_resumed, self.answers)),
        )

    def answer(self, index: int) -> Progress:
        """The answer of that number."""
        while len(self.answers) <= index:
            self.answers.append(Progress())
        return self.answers[index]


def _resumed(answer: Progress) -> bytes:
    finished = b"true" if answer.finished else b"false"
    return b'{"tokens":[%b],"finished":%b}' % (bytes(answer.tokens), finished)


class Events:
    """Reads one pod's part of a stream."""

    __slots__ = ("_num_tokens", "_pending", "_rest", "_transcript", "broken")

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._rest = b""
        self._pending: list[bytes] = []  # comments whose event has not come yet
        self._num_tokens = 0
        self.broken: str | None = None  # code of the error with which the pod gives up

    def feed(self, data: bytes) -> bytes:
        """Some more has come; returns what the client gets, in whole events."""
        if self._rest:
            data = self._rest + data
        end = data.rfind(b"\n\n")
        if end < 0:
            self._rest = data
            return b""
        self._rest = data[end + 2 :]
        if self.broken is not None:
            return b""
        return b"".join(map(self._event, data[:end].split(b"\n\n")))

    def take_count(self) -> int:
        """How many tokens have come since this was last asked."""
        taken, self._num_tokens = self._num_tokens, 0
        return taken

    def _event(self, event: bytes) -> bytes:
        if event.startswith(b":"):
            event = self._without_comments(event)
        if not event or self.broken is not None:
            return b""
        if not self._transcript.id:
            self._first(event)
        if event.startswith(_ERROR):
            return self._error(event)
        if self._pending:
            self._commit()
        if _FINISH in event:
            self._finish(event)
        elif event == _DONE:
            self._transcript.complete = True
        return event + b"\n\n"

    def _without_comments(self, event: bytes) -> bytes:
        while event.startswith(b":"):
            line, _, event = event.partition(b"\n")
            if line.startswith(_TOKENS):
                self._pending.append(line[len(_TOKENS) :])
        return event

    def _first(self, event: bytes) -> None:
        fields = _json(event)
        self._transcript.id = str(fields.get("id", ""))
        created = fields.get("created")
        self._transcript.created = created if isinstance(created, int) else 0

    def _commit(self) -> None:
        for comment in self._pending:
            index, _, ids = comment.partition(b" ")
            known = self._transcript.answer(int(index)).tokens
            if known and ids:
                known += b","
            known += ids
            self._num_tokens += ids.count(b",") + bool(ids)
        self._pending.clear()

    def _finish(self, event: bytes) -> None:
        for choice in _json(event).get("choices", []):
            if choice.get("finish_reason"):
                self._transcript.answer(choice.get("index", 0)).finished = True

    def _error(self, event: bytes) -> bytes:
        """An error for the client ends the stream; one of the pod's is not for the client."""
        code = error_code(event.partition(b"data: ")[2])
        if code in _HAND_OVER:
            self.broken = code
            return b""
        self._transcript.complete = True
        return event + b"\n\n"


def error_code(body: bytes) -> str | None:
    """Of an error in OpenAI's form."""
    error = _object(body).get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else None


def _json(event: bytes) -> dict[str, Any]:
    return _object(event.partition(b"data: ")[2])


def _object(text: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}
