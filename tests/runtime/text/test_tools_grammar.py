"""What a grammar lets a model write is what the format's reader reads: calls whose arguments hold.

The model here is chance: it picks any token that the grammar allows.
"""

import json
import random
from typing import Any

import jsonschema_rs
import pytest
from llguidance import LLMatcher

from aweigh_runtime.text.grammar import of_lark, of_schema
from aweigh_runtime.text.grammar_compiler import LIMITS, load_tokenizer
from aweigh_runtime.text.tools.formats import FORMATS, HERMES, LLAMA3_JSON, MISTRAL, QWEN, Format
from aweigh_runtime.text.tools.grammar import Tool, Wanted, combined
from aweigh_runtime.text.tools.hermes import OPENS
from aweigh_runtime.text.tools.lark import Unenforceable
from aweigh_runtime.text.tools.scanner import ToolReader
from tests.runtime.text.helmsman import BACKEND, DIRECTORY
from tests.runtime.text.test_tools import EVERY, said

END = BACKEND.token_to_id("<|end|>") or 0
TOKENIZER = load_tokenizer(DIRECTORY / "tokenizer.json", BACKEND.get_vocab_size(), {END})
ENDS_SOON = 400  # tokens
LOOK: dict[str, Any] = {
    "type": "object",
    "properties": {
        "at": {"type": "string", "minLength": 1, "maxLength": 6},
        "way": {"enum": ["up", 'a "quoted" é \U0001f600', "</par"]},
        "times": {"type": "integer", "minimum": -5, "maximum": 20},
        "also": {"$ref": "#/$defs/pair"},
        "or": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    },
    "required": ["at", "times"],
    "additionalProperties": False,
    "$defs": {"pair": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}},
}
WAIT: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS = [Tool("look", LOOK, strict=True), Tool("wait", WAIT, strict=True)]


def grammar(format: Format, *, tools: list[Tool] = TOOLS, **changes: Any) -> str:
    fields: dict[str, Any] = {"required": True, "parallel": True, "special": {}, **changes}
    return of_lark(format.grammar(Wanted(tools, **fields)))


def matcher_of(grammar: str) -> LLMatcher:
    return LLMatcher(TOKENIZER, grammar, log_level=0, limits=LIMITS)


def walk(grammar: str, seed: int, begin: str = "") -> str | None:
    """An answer by chance; None: it has become too long."""
    matcher = matcher_of(grammar)
    assert not matcher.get_error()
    tokens: list[int] = BACKEND.encode(begin, add_special_tokens=False).ids
    assert matcher.consume_tokens(tokens)
    chance = random.Random(seed)
    while len(tokens) < ENDS_SOON:
        bits = matcher.compute_bitmask()
        allowed = [t for t in range(TOKENIZER.vocab_size) if bits[t >> 3] >> (t & 7) & 1]
        token = chance.choice(allowed)
        if token == END:
            text: str = BACKEND.decode(tokens, skip_special_tokens=False)
            return text
        assert matcher.consume_token(token)
        tokens.append(token)
    return None


def accepts(grammar: str, text: str) -> bool:
    matcher = matcher_of(grammar)
    assert not matcher.get_error()
    tokens = BACKEND.encode(text, add_special_tokens=False).ids
    return matcher.validate_tokens(tokens) == len(tokens) and (
        matcher.consume_tokens(tokens) and matcher.is_accepting()
    )


def calls_in(format: Format, text: str, *, tools: list[Tool] = TOOLS) -> list[tuple[str, Any]]:
    reader = ToolReader(format.scan, {tool.name: tool.parameters for tool in tools})
    content, calls = said([*reader.feed(text), *reader.finish()])
    assert not content
    return [(name, json.loads(arguments)) for name, arguments in calls]


@EVERY
def test_whatever_a_grammar_allows_is_read_as_calls_whose_arguments_hold(format: Format) -> None:
    written = grammar(format)
    answers = [text for seed in range(12) if (text := walk(written, seed)) is not None]
    assert len(answers) > 4
    for text in answers:
        calls = calls_in(format, text)
        assert calls
        for name, arguments in calls:
            assert jsonschema_rs.is_valid(LOOK if name == "look" else WAIT, arguments), text


@EVERY
def test_one_call_is_one_call(format: Format) -> None:
    written = grammar(format, parallel=False)
    answers = [text for seed in range(6) if (text := walk(written, seed)) is not None]
    assert answers
    assert all(len(calls_in(format, text)) == 1 for text in answers)


@pytest.mark.parametrize(
    ("format", "begin"),
    [(HERMES, OPENS), (LLAMA3_JSON, "{"), (MISTRAL, "[TOOL_CALLS]"), (QWEN, OPENS)],
    ids=FORMATS.keys(),
)
def test_a_strict_function_is_held_to_its_schema_once_the_model_calls(
    format: Format, begin: str
) -> None:
    written = grammar(format, required=False)
    assert accepts(written, "I would rather talk.")
    assert accepts(written, "")
    answers = [text for seed in range(40, 46) if (text := walk(written, seed, begin)) is not None]
    for text in answers:
        reader = ToolReader(format.scan, {tool.name: tool.parameters for tool in TOOLS})
        _, ((name, arguments), *_) = said([*reader.feed(text), *reader.finish()])
        assert jsonschema_rs.is_valid(LOOK if name == "look" else WAIT, json.loads(arguments))
    assert answers


@EVERY
def test_a_function_that_is_not_strict_is_free_where_the_model_chooses(format: Format) -> None:
    tools = [Tool("look", LOOK), Tool("wait", WAIT, strict=True)]
    free = format.write("look", '{"at": "far too long a text"}')
    written = grammar(format, tools=tools, required=False)
    assert accepts(written, free)
    assert not accepts(written, format.write("wait", '{"at": "x"}'))
    assert not accepts(grammar(format, tools=tools), free)


@EVERY
def test_without_strictness_what_cannot_be_enforced_is_left_out(format: Format) -> None:
    odd = {"type": "object", "properties": {"a": {"type": "string", "format": "odd"}}}
    call = format.write("odd", '{"a": "x"}')
    assert accepts(grammar(format, tools=[Tool("odd", odd)]), call)
    if format is QWEN:
        with pytest.raises(Unenforceable, match="'format' of 'a'"):
            grammar(format, tools=[Tool("odd", odd, strict=True)])
    else:
        strict = grammar(format, tools=[Tool("odd", odd, strict=True)])
        assert "odd" in matcher_of(strict).get_error()


def test_markers_that_are_special_tokens_are_asked_for_as_such() -> None:
    opens, arguments = BACKEND.token_to_id("<|user|>"), BACKEND.token_to_id("<|system|>")
    special = {"[TOOL_CALLS]": opens, "[ARGS]": arguments}
    written = grammar(MISTRAL, special=special)
    assert accepts(written, "<|user|>wait<|system|>{}<|user|>wait<|system|>{}")
    assert not accepts(written, "[TOOL_CALLS]wait[ARGS]{}")
    chosen = grammar(MISTRAL, special=special, required=False)
    assert accepts(chosen, "Well.<|user|>wait<|system|>{}")
    assert accepts(chosen, "Well.")


def test_an_answer_without_a_call_can_have_a_form() -> None:
    form = of_schema(
        {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    )

    def both(format: Format) -> str:
        return combined(format.grammar(Wanted(TOOLS, False, True, {}, form=True)), form)

    for format in (HERMES, MISTRAL, QWEN):
        assert accepts(both(format), '{"n": 1}')
        assert accepts(both(format), format.write("wait", "{}"))
        assert not accepts(both(format), "Well.")
    with pytest.raises(Unenforceable):  # both begin with a brace
        both(LLAMA3_JSON)


@pytest.mark.parametrize(
    "parameters",
    [
        {"properties": {"a>b": {"type": "string"}}},
        {"properties": {"a": {"type": "string", "maxLength": "1}/ | /x"}}},
    ],
    ids=["a name with markup", "a length that is no number"],
)
def test_what_qwen_cannot_be_held_to_is_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(Unenforceable):
        grammar(QWEN, tools=[Tool("f", parameters)])
