"""A call written as JSON: {"name": …, "arguments": {…}}, as three of the formats have it.

The call counts once its name is known: from then on its arguments are passed on as they come,
whatever they are. Before that, anything that does not fit makes all of it content.
"""

import json
from collections.abc import Generator

from aweigh_runtime.text.tools.scanner import Cursor, blanks

_ARGUMENTS = ("arguments", "parameters")
_IGNORED = ("type", "id")
_MAX_STRING = 256  # of keys, names and ids; nothing longer is one of ours

Steps = Generator[None, None, bool]


def json_call(cursor: Cursor) -> Steps:
    """Read one object. False: it is no call, and what was read is held."""
    if cursor.char != "{":
        return False
    call, follows = _Call(cursor), "{"
    while cursor.char == follows:
        cursor.take()
        yield
        yield from blanks(cursor)
        if not (yield from call.member()):
            break
        yield from blanks(cursor)
        follows = ","
    else:
        if cursor.char == "}":
            cursor.take()
            yield
            call.close()
    if call.started and not cursor.char:  # the answer ends beside its markup
        cursor.drop()
    return call.started


def json_object(cursor: Cursor, *, stream: bool) -> Steps:
    """Read an object up to its last brace. False: the answer ends within.

    Only strings and brackets are looked at, so that what the model got wrong inside stays inside.
    """
    depth, in_string, escaped = 0, False, False
    while char := cursor.char:
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
        else:
            in_string = char == '"'
            depth += (char in "{[") - (char in "}]")
        cursor.take()
        if stream:
            cursor.pass_arguments()
        yield
        if depth == 0:
            return True
    return False


def written(name: str, key: str, arguments: str) -> str:
    """A call whose arguments, which are JSON, stand under this key."""
    return f'{{"name": {json.dumps(name)}, "{key}": {arguments}}}'


class _Call:
    """What is known of an object that may be a call."""

    def __init__(self, cursor: Cursor) -> None:
        self.started = False
        self._cursor = cursor
        self._name: str | None = None
        self._arguments: str | None = None  # those that stand before the name

    def member(self) -> Steps:
        """Read a key and its value. False: they do not belong to a call."""
        key = yield from _string(self._cursor)
        yield from blanks(self._cursor)
        if key is None or self._cursor.char != ":":
            return False
        self._cursor.take()
        yield
        yield from blanks(self._cursor)
        if key == "name" and self._name is None:
            return (yield from self._read_name())
        if key in _ARGUMENTS and self._cursor.char == "{" and not self._has_arguments:
            return (yield from self._read_arguments())
        return key in _IGNORED and (yield from _string(self._cursor)) is not None

    def close(self) -> None:
        """The object is complete."""
        if self._name is not None and not self.started:
            self._start(self._name)
            self._cursor.arguments(self._arguments or "{}")
        if self.started:
            self._cursor.drop()

    @property
    def _has_arguments(self) -> bool:
        return self.started or self._arguments is not None

    def _read_name(self) -> Steps:
        self._name = yield from _string(self._cursor)
        return self._name in self._cursor.tools

    def _read_arguments(self) -> Steps:
        if self._name is not None:
            self._start(self._name)
            return (yield from json_object(self._cursor, stream=True))
        begin = len(self._cursor.held)
        complete = yield from json_object(self._cursor, stream=False)
        self._arguments = "".join(self._cursor.held[begin:])
        return complete

    def _start(self, name: str) -> None:
        self._cursor.start(name)
        self.started = True


def _string(cursor: Cursor) -> Generator[None, None, str | None]:
    """Read a JSON string; None: there is none, or it is too long."""
    if cursor.char != '"':
        return None
    begin, escaped = len(cursor.held), False
    cursor.take()
    yield
    while cursor.char and len(cursor.held) - begin < _MAX_STRING:
        ends = cursor.char == '"' and not escaped
        escaped = cursor.char == "\\" and not escaped
        cursor.take()
        yield
        if ends:
            return _decoded("".join(cursor.held[begin:]))
    return None


def _decoded(text: str) -> str | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
