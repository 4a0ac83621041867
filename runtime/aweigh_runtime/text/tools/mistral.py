"""The formats of Mistral: [TOOL_CALLS] and a JSON list, or [TOOL_CALLS]name[ARGS]{…}."""

from collections.abc import Generator

from aweigh_runtime.text.tools.calls import json_call, json_object, written
from aweigh_runtime.text.tools.names import MAX_NAME, NAME_CHARACTERS
from aweigh_runtime.text.tools.scanner import Cursor, Steps, blanks, one_of, until_one_of

OPENS, ARGUMENTS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"


def scan(cursor: Cursor) -> Steps:
    """Find calls."""
    while (yield from until_one_of(cursor, (OPENS,))):
        yield from blanks(cursor)
        made = yield from (_listed if cursor.char == "[" else _named)(cursor)
        if not made:
            cursor.release()


def write(name: str, arguments: str) -> str:
    """A call as the model would have written it; the arguments are JSON."""
    return f"{OPENS}[{written(name, 'arguments', arguments)}]"


def _listed(cursor: Cursor) -> Generator[None, None, bool]:
    """A list of calls. One that is broken ends it."""
    follows, made = "[", False
    while cursor.char == follows:
        cursor.take()
        yield
        yield from blanks(cursor)
        if not (yield from json_call(cursor)):
            return False
        made, follows = True, ","
        yield from blanks(cursor)
    if cursor.char == "]":
        cursor.take()
        yield
    elif cursor.char:
        return False
    cursor.drop()
    return made


def _named(cursor: Cursor) -> Generator[None, None, bool]:
    """A name, perhaps an id, and the arguments."""
    name = yield from _identifier(cursor)
    while cursor.char == "[":
        marker = yield from one_of(cursor, (ARGUMENTS, CALL_ID))
        if marker is None:
            return False
        if marker == CALL_ID:
            yield from _identifier(cursor)
    yield from blanks(cursor)
    if name not in cursor.tools or cursor.char != "{":
        return False
    cursor.start(name)
    yield from json_object(cursor, stream=True)
    return True


def _identifier(cursor: Cursor) -> Generator[None, None, str]:
    begin = len(cursor.held)
    while cursor.char in NAME_CHARACTERS and len(cursor.held) - begin < MAX_NAME:
        cursor.take()
        yield
    return "".join(cursor.held[begin:])
