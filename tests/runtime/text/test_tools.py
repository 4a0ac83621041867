"""Every format is read by a machine that sees one character at a time: what holds for all of them,
and what each makes of answers that models really write, or that someone would like to be a call.
"""

import json
import re
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aweigh_runtime.text.tools.events import Content, Event, ToolCallArguments, ToolCallStart
from aweigh_runtime.text.tools.formats import FORMATS, HERMES, LLAMA3_JSON, MISTRAL, QWEN, Format
from aweigh_runtime.text.tools.scanner import ToolReader

TOOLS: dict[str, dict[str, Any]] = {
    "look": {
        "type": "object",
        "properties": {
            "at": {"type": "string"},
            "times": {"type": "integer"},
            "also": {"$ref": "#/$defs/list"},
            "or": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        "$defs": {"list": {"type": "array"}},
    },
    "wait": {},
}
EVERY = pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS.keys())

Said = tuple[str, list[tuple[str, str]]]  # content, and calls with their arguments


def reader(format: Format, most_calls: int | None = None) -> ToolReader:
    return ToolReader(format.scan, TOOLS, most_calls, lambda: "id")


def read(format: Format, text: str, cuts: Sequence[int] = (), most: int | None = None) -> Said:
    """What the events of an answer, cut at these places, come to."""
    fed = reader(format, most)
    places = sorted({0, len(text), *(cut for cut in cuts if cut <= len(text))})
    events = [e for begin, end in pairwise(places) for e in fed.feed(text[begin:end])]
    return said([*events, *fed.finish()])


def said(events: list[Event]) -> Said:
    content, calls = "", list[tuple[str, str]]()
    for event in events:
        match event:
            case Content(text):
                assert text
                content += text
            case ToolCallStart(index, _, name):
                assert index == len(calls)
                calls.append((name, ""))
            case ToolCallArguments(index, text):
                assert index == len(calls) - 1
                calls[index] = (calls[index][0], calls[index][1] + text)
    return content, calls


MARKUP = [
    *("<tool_call>", "</tool_call>", "<function=look>", "<function=wait>", "</function>"),
    *("<parameter=at>", "<parameter=times>", "<parameter=", "</parameter>", "<|python_tag|>"),
    *("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "look", "wait", '{"name": "look", "arguments": {'),
    *('{"name": "wait"}', '{"arguments": {"at": "</tool_call>"}, "name": "wait"}', "}}", '"at": '),
    *('"name"', ":", ",", ";", "{", "}", "[", "]", '"', "\\", "\\u00e9", "\n", " ", "null", "7"),
]
ANSWERS = st.lists(st.sampled_from(MARKUP) | st.text(max_size=3), max_size=25).map("".join)


@EVERY
@given(text=ANSWERS, cuts=st.lists(st.integers(0, 200), max_size=20))
def test_cutting_an_answer_never_changes_what_it_says(
    format: Format, text: str, cuts: list[int]
) -> None:
    whole = read(format, text)
    assert read(format, text, cuts) == whole
    assert read(format, text, range(len(text))) == whole


@EVERY
@given(text=ANSWERS)
def test_an_answer_without_a_call_is_content_to_the_last_character(
    format: Format, text: str
) -> None:
    content, calls = read(format, text)
    assert calls or content == text
    assert all(name in TOOLS for name, _ in calls)


@EVERY
@given(text=ANSWERS)
def test_content_is_never_made_up(format: Format, text: str) -> None:
    content, _ = read(format, text)
    rest = iter(text)
    assert all(character in rest for character in content)  # in the same order


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
VALUES = st.text(max_size=12) | st.sampled_from(
    ['"}]', "</tool_call>", '\\"{', "<parameter=x>", "\n"]
)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "at": VALUES,
        "times": st.integers(),
        "also": st.lists(JSON, max_size=3),
        "or": st.none() | VALUES.filter(lambda text: text.strip() not in ("null", "None")),
    },
)
CALLS = st.lists(st.tuples(st.sampled_from(list(TOOLS)), ARGUMENTS), min_size=1, max_size=4)
PLAIN = st.text("ab .\n", max_size=9).map(str.lstrip)


@EVERY
@given(calls=CALLS, before=PLAIN, after=PLAIN, cuts=st.lists(st.integers(0, 300), max_size=9))
def test_what_a_format_writes_it_reads(
    format: Format,
    calls: list[tuple[str, dict[str, Any]]],
    before: str,
    after: str,
    cuts: list[int],
) -> None:
    if format is QWEN:  # it has the types of these from the schema
        calls = [(name, values if name == "look" else {}) for name, values in calls]
    written = [format.write(name, json.dumps(values)) for name, values in calls]
    if format is LLAMA3_JSON:
        text = ("" if not before else f"{before}<|python_tag|>") + "; ".join(written) + after
    else:
        text = before + "\n".join(written) + after
    content, read_calls = read(format, text, cuts)
    assert [(name, json.loads(arguments)) for name, arguments in read_calls] == calls
    assert content == before + ("" if after.isspace() else after)


@pytest.mark.parametrize(
    ("format", "text", "expected"),
    [
        pytest.param(
            HERMES,
            'I look.\n<tool_call>\n{"name": "look", "arguments": {"at": "}</tool_call>\\"{"}}\n'
            "</tool_call>\nDone.",
            ("I look.\n\nDone.", [("look", '{"at": "}</tool_call>\\"{"}')]),
            id="text around a call, and markup within a string",
        ),
        pytest.param(
            HERMES,
            '<tool_call>{"arguments": {"at": [{}]}, "name": "look"}</tool_call>',
            ("", [("look", '{"at": [{}]}')]),
            id="the arguments before the name",
        ),
        pytest.param(
            HERMES,
            '<tool_call>{"name": "wait"}</tool_call>',
            ("", [("wait", "{}")]),
            id="no arguments",
        ),
        pytest.param(
            HERMES,
            '<tool_call>{"name": "lo\\u006fk", "arguments": {"at": "\\u00e9"}}</tool_call>',
            ("", [("look", '{"at": "\\u00e9"}')]),
            id="escapes, which stay as they are in arguments",
        ),
        pytest.param(
            HERMES,
            '<tool_call>{"name": "look", "arguments": {"at": "x"}\n</tool_call>',
            ("", [("look", '{"at": "x"}')]),
            id="the outer brace forgotten",
        ),
        pytest.param(
            HERMES,
            '<tool_call>{"name": "look", "arguments": {"at": "a</tool_call>',
            ("", [("look", '{"at": "a</tool_call>')]),
            id="a string that is never closed",
        ),
        pytest.param(
            HERMES,
            '<tool_call>{"name": "look", "arguments": {"a',
            ("", [("look", '{"a')]),
            id="cut off within the arguments",
        ),
        pytest.param(
            HERMES,
            '<tool_call>\n{"name": "lo',
            ('<tool_call>\n{"name": "lo', []),
            id="cut off before",
        ),
        pytest.param(
            HERMES,
            '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
            ('<tool_call>{"name": "rm", "arguments": {}}</tool_call>', []),
            id="a function that nobody offered",
        ),
        pytest.param(
            HERMES,
            '<tool_call><tool_call>{"name": "wait"}</tool_call>',
            ("<tool_call>", [("wait", "{}")]),
            id="the marker twice",
        ),
        pytest.param(
            LLAMA3_JSON,
            '{"type": "function", "name": "look", "parameters": {"times": 2}}; {"name": "wait", '
            '"parameters": {}}',
            ("", [("look", '{"times": 2}'), ("wait", "{}")]),
            id="two calls of Llama",
        ),
        pytest.param(
            LLAMA3_JSON,
            '{"answer": {"name": "wait", "parameters": {}}}',
            ('{"answer": {"name": "wait", "parameters": {}}}', []),
            id="JSON that is no call",
        ),
        pytest.param(
            LLAMA3_JSON,
            'Use {"name": "wait", "parameters": {}}.',
            ('Use {"name": "wait", "parameters": {}}.', []),
            id="a call that is quoted",
        ),
        pytest.param(
            MISTRAL,
            '[TOOL_CALLS] [{"name": "look", "arguments": {"times": 1}, "id": "abcdefghi"}, '
            '{"name": "wait", "arguments": {}}]',
            ("", [("look", '{"times": 1}'), ("wait", "{}")]),
            id="Mistral's list",
        ),
        pytest.param(
            MISTRAL,
            '[TOOL_CALLS]look[CALL_ID]abc[ARGS]{"times": 1}[TOOL_CALLS]wait[ARGS]{}',
            ("", [("look", '{"times": 1}'), ("wait", "{}")]),
            id="Mistral's newer way",
        ),
        pytest.param(
            QWEN,
            "<tool_call>\n<function=look>\n<parameter=at>\nif a < b:\n  </p>\n\n</parameter>\n"
            "<parameter=times>\n3\n</parameter>\n<parameter=or>null</parameter>\n</function>\n"
            "</tool_call>",
            ("", [("look", '{"at": "if a < b:\\n  </p>\\n", "times": 3, "or": null}')]),
            id="Qwen's parameters",
        ),
        pytest.param(
            QWEN,
            "<function=look>\n<parameter=times>\nthree\n</parameter>\n<parameter=or>\n5\n"
            "</parameter>\n</function>",
            ("", [("look", '{"times": "three", "or": "5"}')]),
            id="values that are not what the schema says",
        ),
        pytest.param(
            QWEN,
            "<function=look>\n<parameter=or>None</parameter><parameter=at>None</parameter>"
            "<parameter=new>True</parameter></function>",
            ("", [("look", '{"or": null, "at": "None", "new": true}')]),
            id="constants as Python writes them",
        ),
        pytest.param(
            QWEN,
            "<function=look>\n<parameter=at>\nab",
            ("", [("look", '{"at": "ab')]),
            id="cut off within a value",
        ),
        pytest.param(
            QWEN,
            "<tool_call>\n<function=rm>\n</function>\n</tool_call>",
            ("<tool_call>\n<function=rm>\n</function>\n</tool_call>", []),
            id="a function that nobody offered to Qwen",
        ),
    ],
)
def test_answers_say(format: Format, text: str, expected: Said) -> None:
    assert read(format, text) == expected
    assert read(format, text, range(len(text))) == expected


def test_arguments_come_as_soon_as_they_are_known_to_be_arguments() -> None:
    fed = reader(HERMES)
    assert fed.feed('Well <tool_call>\n{"name": "look", "argu') == [Content("Well ")]
    assert fed.feed('ments": ') == []
    assert fed.feed('{"at": "a') == [
        ToolCallStart(0, "id", "look"),
        ToolCallArguments(0, '{"at": "a'),
    ]
    assert fed.feed('b"') == [ToolCallArguments(0, 'b"')]
    assert fed.feed("}}\n</tool") == [ToolCallArguments(0, "}")]
    assert fed.feed("_call>") == fed.finish() == []


def test_only_what_may_become_a_marker_is_held_back() -> None:
    fed = reader(HERMES)
    assert fed.feed("a <tool") == [Content("a ")]
    assert fed.feed("box") == [Content("<toolbox")]


@EVERY
def test_where_one_call_is_allowed_further_ones_are_left_out(format: Format) -> None:
    one = format.write("wait", "{}")
    text = f"{one}; {one}" if format is LLAMA3_JSON else f"{one}\n{one}"
    assert read(format, text, most=1) == ("", [("wait", "{}")])


HARD: dict[str, Callable[[int], str]] = {
    "beginnings of markers": lambda n: "<" * n + "[" * n,
    "markers": lambda n: "<tool_call>" * (n // 11) + "[TOOL_CALLS]" * (n // 12),
    "blanks": lambda n: f"<tool_call>{' ' * n}[TOOL_CALLS]{' ' * n}<function=look>{' ' * n}",
    "an endless name": lambda n: '<tool_call>{"name": "' + "a" * n,
    "endless arguments before the name": lambda n: '{"parameters": {' + '["' * n,
    "arguments": lambda n: '<tool_call>{"name": "look", "arguments": {"a": "' + '\\"}' * n,
    "a value": lambda n: "<function=look><parameter=at>" + "\n</parameter" * (n // 11),
    "a list": lambda n: "<function=look><parameter=also>" + "[" * n + "</parameter>",
    "parameters": lambda n: "<function=look>" + "<parameter=at>1</parameter>" * (n // 27),
    "calls": lambda n: '{"name":"wait"};' * (n // 16),
}


@pytest.mark.parametrize("hard", HARD.values(), ids=HARD.keys())
@EVERY
def test_twice_the_text_takes_twice_the_time(format: Format, hard: Callable[[int], str]) -> None:
    def seconds(text: str) -> float:
        started_s = time.process_time()
        read(format, text)
        return time.process_time() - started_s

    short, long = hard(3_000), hard(12_000)
    taken_s = [(seconds(short), seconds(long)) for _ in range(3)]
    shortest_s, longest_s = (min(times) for times in zip(*taken_s, strict=True))
    assert longest_s < 5 * shortest_s + 0.005  # 16 times when it is quadratic


def test_ids_are_as_each_family_wants_them() -> None:
    assert HERMES.new_id().startswith("call_")
    assert HERMES.new_id() != HERMES.new_id()
    assert re.fullmatch("[A-Za-z0-9]{9}", MISTRAL.new_id())
    assert MISTRAL.id_for_template("Abcdefgh1") == "Abcdefgh1"
    foreign = MISTRAL.id_for_template("call_0123456789")
    assert re.fullmatch("[A-Za-z0-9]{9}", foreign)
    assert foreign == MISTRAL.id_for_template("call_0123456789")
    assert HERMES.id_for_template("any") == "any"
