"""Grammars of clients: what is accepted means what it says, the rest costs a bounded time."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from aweigh_runtime.text import grammar as grammars
from aweigh_runtime.text.grammar import (
    CheckersBusy,
    GrammarRefused,
    Grammars,
    of_choice,
    of_lark,
    of_regex,
    of_schema,
)
from aweigh_runtime.text.worker import Died
from tests.runtime.text.helmsman import DIRECTORY

ENDS = [0, 3]
TOKENS = LLTokenizer(str(DIRECTORY / "tokenizer.json"), eos_token=ENDS)
SLOW = {"type": "integer", "multipleOf": 1_000_003}  # an automaton with a million states
LATE_S = 1.0


@pytest.fixture
async def checker() -> AsyncIterator[Grammars]:
    yield (checker := Grammars(DIRECTORY / "tokenizer.json", TOKENS.vocab_size, ENDS))
    await checker.close()


def accepts(grammar: str, text: str) -> bool:
    matcher = LLMatcher(TOKENS, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return bool(matcher.consume_tokens(TOKENS.tokenize_str(text)) and matcher.is_accepting())


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_every_alternative_is_in_the_grammar_of_a_choice(texts: list[str]) -> None:
    grammar = of_choice(texts)
    assert accepts(grammar, texts[0])
    assert not accepts(grammar, texts[0] + "~" if texts[0] + "~" not in texts else "")


@pytest.mark.parametrize(
    ("regex", "inside", "outside"),
    [
        (r"\d{3}-\d{4}", "555-1234", "555-123"),
        ("a/b", "a/b", "ab"),
        (r"a\/b", "a/b", r"a\/b"),
        (r"[/\\]+", "/\\/", "x"),
        ("a\nb", "a\nb", "anb"),
        ("yes|no", "no", "maybe"),
        ("", "", "a"),
    ],
)
def test_a_regex_is_matched_as_a_whole(regex: str, inside: str, outside: str) -> None:
    assert accepts(of_regex(regex), inside)
    assert not accepts(of_regex(regex), outside)


def test_a_schema_may_be_a_text_and_holds() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    for form in (schema, json.dumps(schema)):
        assert accepts(of_schema(form), '{"a": 5}')
        assert not accepts(of_schema(form), "{}")
    assert accepts(of_schema(True), '[1, {"b": null}]')


def test_white_space_ends() -> None:
    grammar = of_schema({"type": "object"})
    assert accepts(grammar, '{\n    "a": 1}')
    assert not accepts(grammar, "{" + " " * 65 + '"a": 1}')


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"$ref": "http://169.254.169.254/latest"}, "nothing is fetched"),
        ({"properties": {"a": {"items": [{"$ref": "file:///etc/passwd"}]}}}, "nothing is fetched"),
        ({"enum": ["x" * 70_000]}, "expected 65536 at most"),
        (nested(40), "deeper than 32 levels"),
        (nested(500), "deeper than 32 levels"),
        (False, "allows no answer"),
        ("{", "not a JSON object"),
        ("[]", "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_schema_beyond_the_limits_is_refused_unread(schema: Any, reason: str) -> None:
    with pytest.raises(GrammarRefused, match=reason):
        of_schema(schema)


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (of_schema({"type": "objet"}), "Invalid type: objet"),
        (of_schema({"not": {}}), "Unimplemented keys"),
        (of_schema({"$ref": "#/$defs/none"}), "does not exist"),
        (of_schema({"type": "string", "pattern": "("}), "unclosed group"),
        (of_regex("("), "unclosed group"),
        (of_regex("(?=a)"), "look-around"),
        (of_lark("start: nobody"), "unknown name"),
        (of_lark(""), "no start rule"),
        (of_lark('start: %json {"$ref": "http://127.0.0.1/"}'), "does not fetch"),
    ],
)
async def test_the_compilers_words_tell_what_is_wrong(
    checker: Grammars, grammar: str, reason: str
) -> None:
    with pytest.raises(GrammarRefused, match=reason):
        await checker.check(grammar)


async def test_a_grammar_that_explodes_is_given_up_and_the_next_one_compiled(
    checker: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammars, "CHECK_DEADLINE_S", LATE_S)
    with pytest.raises(GrammarRefused, match="did not finish within 1 s"):
        await checker.check(of_schema(SLOW))
    await checker.check(of_schema({"type": "object"}))
    started_s = time.monotonic()
    with pytest.raises(GrammarRefused, match="did not finish within 1 s"):
        await checker.check(of_schema(SLOW))
    assert time.monotonic() - started_s < LATE_S / 2  # it is known by now


def slow(count: int) -> list[str]:
    return [of_schema({**SLOW, "multipleOf": 1_000_003 + 2 * each}) for each in range(count)]


async def test_one_callers_explosions_delay_no_other_caller(checker: Grammars) -> None:
    await checker.check(of_regex("a+"))
    exploding = [asyncio.ensure_future(checker.check(each, b"mallory")) for each in slow(4)]
    await asyncio.sleep(0.1)
    for each in exploding[:2]:
        each.cancel()  # the first one compiles on: going away frees no turn
    started_s = time.monotonic()
    for n in range(8):
        await checker.check(of_regex(f"b{{{n}}}c"), b"alice")
    assert time.monotonic() - started_s < 1.0
    for each in exploding:
        each.cancel()
    await asyncio.gather(*exploding, return_exceptions=True)


async def test_who_waits_too_long_for_a_turn_is_told_to_come_again(
    checker: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammars, "WAIT_DEADLINE_S", 0.2)
    monkeypatch.setattr(grammars, "CHECK_DEADLINE_S", LATE_S)
    first, second = (asyncio.ensure_future(checker.check(each)) for each in slow(2))
    with pytest.raises(CheckersBusy):
        await second
    with pytest.raises(GrammarRefused):
        await first
    await checker.check(of_regex("a+"))


async def test_a_question_that_is_open_at_the_end_starts_no_process_again(
    checker: Grammars,
) -> None:
    await checker.check(of_regex("a+"))
    asked = asyncio.ensure_future(checker.check(of_schema(SLOW)))
    await asyncio.sleep(0.1)
    await checker.close()
    assert [worker._child for worker in checker._workers] == [None, None]
    with pytest.raises(GrammarRefused, match="the server ends"):
        await asked


async def test_a_process_that_dies_says_nothing_of_the_grammar(checker: Grammars) -> None:
    await checker.check(of_regex("a+"))
    asked = asyncio.ensure_future(checker.check(of_schema(SLOW)))
    for _ in range(2):  # it may have died before: the question is asked once more
        await asyncio.sleep(1)
        (child,) = [worker._child for worker in checker._workers if worker._child is not None]
        child.process.kill()
    with pytest.raises(Died):
        await asked
    assert len(checker._known) == 1
    await checker.check(of_regex("b+"))


async def test_a_grammar_is_compiled_once_and_then_known(
    checker: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = of_regex("a+"), of_regex("b+")
    monkeypatch.setattr(grammars, "MAX_KNOWN", 1)
    await checker.check(first)
    monkeypatch.setattr(grammars, "CHECK_DEADLINE_S", 0.0)  # whatever is compiled now is late
    await checker.check(first)
    with pytest.raises(GrammarRefused):
        await checker.check(second)
    monkeypatch.setattr(grammars, "CHECK_DEADLINE_S", 5.0)
    await checker.check(of_regex("c+"))
    monkeypatch.setattr(grammars, "CHECK_DEADLINE_S", 0.0)
    with pytest.raises(GrammarRefused):  # others have taken its place
        await checker.check(first)
