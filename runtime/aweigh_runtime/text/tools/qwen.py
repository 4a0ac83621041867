"""The format of Qwen3-Coder: <tool_call><function=name><parameter=x>value</parameter>…

Values are plain text, so the JSON of the arguments is made here: a parameter that may only be a
string is passed on as it grows, any other one once it is complete and its type is known.
"""

import json
from collections.abc import Generator

from aweigh_runtime.text.tools.hermes import CLOSES, OPENS, closing
from aweigh_runtime.text.tools.kinds import fits, is_string, kinds_of
from aweigh_runtime.text.tools.names import MAX_NAME
from aweigh_runtime.text.tools.scanner import Cursor, Steps, blanks, one_of, until_one_of, word

FUNCTION, FUNCTION_ENDS = "<function=", "</function>"
PARAMETER, PARAMETER_ENDS = "<parameter=", "</parameter>"
_MAX_PARAMETER_NAME = 256
# What chat templates make of these in earlier turns, and so models write, too.
_PYTHON = {"True": "true", "False": "false", "None": "null"}


def scan(cursor: Cursor) -> Steps:
    """Find calls. Some answers lack the first marker."""
    while marker := (yield from until_one_of(cursor, (OPENS, FUNCTION))):
        if marker == OPENS:
            yield from blanks(cursor)
            if not (yield from word(cursor, FUNCTION)):
                cursor.release()
                continue
        name = yield from _name(cursor, MAX_NAME)
        if name is None or name not in cursor.tools:
            cursor.release()
            continue
        cursor.start(name)
        if (yield from _parameters(cursor, name)):
            yield from closing(cursor, CLOSES)


def write(name: str, arguments: str) -> str:
    """A call as the model would have written it; the arguments are JSON."""
    values = json.loads(arguments)
    texts = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in (values.items() if isinstance(values, dict) else ())
    }
    lines = [f"{PARAMETER}{key}>\n{text}\n{PARAMETER_ENDS}" for key, text in texts.items()]
    return "\n".join([OPENS, f"{FUNCTION}{name}>", *lines, FUNCTION_ENDS, CLOSES])


def _name(cursor: Cursor, longest: int) -> Generator[None, None, str | None]:
    """What stands before the next angle bracket; None: too much, or a broken line."""
    begin = len(cursor.held)
    while cursor.char and cursor.char not in ">\n" and len(cursor.held) - begin < longest:
        cursor.take()
        yield
    if cursor.char != ">":
        return None
    name = "".join(cursor.held[begin:])
    cursor.take()
    yield
    return name


def _parameters(cursor: Cursor, function: str) -> Generator[None, None, bool]:
    """Read all parameters. False: what follows is not the end of a call."""
    cursor.arguments("{")
    before = ""
    while True:
        yield from blanks(cursor)
        marker = yield from one_of(cursor, (PARAMETER, FUNCTION_ENDS))
        name = (yield from _name(cursor, _MAX_PARAMETER_NAME)) if marker == PARAMETER else None
        if name is None:
            break
        cursor.drop()
        cursor.arguments(f"{before}{json.dumps(name, ensure_ascii=False)}: ")
        before = ", "
        if not (yield from _value(cursor, function, name)):
            return False
    if not cursor.char and marker != FUNCTION_ENDS:  # cut off: so are the arguments
        cursor.drop()
        return False
    cursor.arguments("}")
    if marker != FUNCTION_ENDS:
        cursor.release()
        return False
    cursor.drop()
    return True


def _value(cursor: Cursor, function: str, name: str) -> Generator[None, None, bool]:
    """Read a value and write it as JSON. False: the answer ends within."""
    kinds = kinds_of(cursor.tools[function], name)
    grown: list[str] | None = None if is_string(kinds) else []
    if grown is None:
        cursor.arguments('"')
    if cursor.char == "\n":
        cursor.take()
        yield
        cursor.drop()
    complete = yield from _text(cursor, grown)
    if grown is not None:
        text = "".join(grown)
        raw = _PYTHON.get(text.strip(), text.strip())
        cursor.arguments(raw if complete and fits(raw, kinds) else _quoted(text, complete))
    elif complete:
        cursor.arguments('"')
    return complete


def _text(cursor: Cursor, grown: list[str] | None) -> Generator[None, None, bool]:
    """Read a value's text, without the line break before its end. False: the answer ends."""
    while cursor.char:
        if cursor.char == "\n":
            cursor.take()
            yield
        if cursor.char == "<":
            if (yield from word(cursor, PARAMETER_ENDS)):
                cursor.drop()
                return True
        elif not cursor.held:
            cursor.take()
            yield
        text = "".join(cursor.held)
        cursor.drop()
        if grown is None:
            cursor.arguments(_escaped(text))
        else:
            grown.append(text)
    return False


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _quoted(text: str, complete: bool) -> str:
    return f'"{_escaped(text)}' + ('"' if complete else "")
