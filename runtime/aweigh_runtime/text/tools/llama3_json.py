"""The format of Llama 3.1 and later: the answer is JSON, several calls parted by semicolons."""

from collections.abc import Generator

from aweigh_runtime.text.tools.calls import json_call, written
from aweigh_runtime.text.tools.scanner import Cursor, Steps, blanks, until_one_of

OPENS = "<|python_tag|>"  # may precede the JSON, also behind content


def scan(cursor: Cursor) -> Steps:
    """Find calls."""
    yield from blanks(cursor)
    expected = cursor.char == "{"
    while expected or (yield from until_one_of(cursor, (OPENS,))):
        yield from blanks(cursor)
        expected = yield from json_call(cursor)
        if expected:
            expected = yield from _another_follows(cursor)
        else:
            cursor.release()


def write(name: str, arguments: str) -> str:
    """A call as the model would have written it; the arguments are JSON."""
    return written(name, "parameters", arguments)


def _another_follows(cursor: Cursor) -> Generator[None, None, bool]:
    yield from blanks(cursor)
    if cursor.char and cursor.char in ";,":
        cursor.take()
        yield
        yield from blanks(cursor)
    if cursor.char == "{":
        return True
    if not cursor.holds_blanks:
        cursor.release()
    return False
