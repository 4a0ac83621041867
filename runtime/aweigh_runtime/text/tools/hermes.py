"""The format of Hermes and of Qwen 2.5 and 3: JSON between <tool_call> and </tool_call>."""

from aweigh_runtime.text.tools.calls import json_call, written
from aweigh_runtime.text.tools.scanner import Cursor, Steps, blanks, until_one_of, word

OPENS, CLOSES = "<tool_call>", "</tool_call>"


def scan(cursor: Cursor) -> Steps:
    """Find calls."""
    while (yield from until_one_of(cursor, (OPENS,))):
        yield from blanks(cursor)
        if (yield from json_call(cursor)):
            yield from closing(cursor, CLOSES)
        else:
            cursor.release()


def write(name: str, arguments: str) -> str:
    """A call as the model would have written it; the arguments are JSON."""
    return f"{OPENS}\n{written(name, 'arguments', arguments)}\n{CLOSES}"


def closing(cursor: Cursor, marker: str) -> Steps:
    """The markup after a call. An answer may end within it; what stands in its place is content."""
    yield from blanks(cursor)
    if (yield from word(cursor, marker)) or not cursor.char:
        cursor.drop()
    elif not cursor.holds_blanks:
        cursor.release()
