"""Structured output with the builtin tokenizer: whatever the model says, the text is valid."""

import json
import re
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher
from tokenizers import Tokenizer

import aweigh_runtime
from aweigh_runtime.engine.grammars import Compiled, Grammars
from aweigh_runtime.engine.masks import Masks
from aweigh_runtime.engine.matcher import Matcher
from aweigh_runtime.engine.messages import Sampling
from aweigh_runtime.engine.sampling.choice import Sampler
from aweigh_runtime.engine.sampling.row import Row

HELMSMAN = Path(aweigh_runtime.__file__).parent / "builtin" / "helmsman-8m"
SIZE = 8192
ENDS = {0, 3}
TOKENIZER = Tokenizer.from_file(str(HELMSMAN / "tokenizer.json"))
SAMPLER = Sampler(SIZE)
FREE = -1


@pytest.fixture(scope="module")
def grammars() -> Iterator[Grammars]:
    compiler = Grammars(HELMSMAN, SIZE, ENDS)
    yield compiler
    compiler.close()


def compiled(compiler: Grammars, grammar: str, id: int = 1) -> Compiled:
    compiler.submit(id, grammar)
    deadline = time.monotonic() + 30
    while not (done := compiler.poll()):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert [one.id for one in done] == [id]
    return done[0]


def matcher(compiler: Grammars, grammar: str) -> Matcher:
    one = compiled(compiler, grammar)
    assert one.matcher is not None, one.error
    return one.matcher


def regex(pattern: str) -> str:
    return LLMatcher.grammar_from_regex(pattern)


def schema(schema: dict[str, Any]) -> str:
    return LLMatcher.grammar_from_json_schema(schema)


def logits_of(num_rows: int, seed: int) -> torch.Tensor:
    return 3 * torch.randn(num_rows, SIZE, generator=torch.Generator().manual_seed(seed))


def answers(rows: list[Row], seed: int, most_tokens: int = 300) -> list[list[int]]:
    """Sample from random logits until every answer has ended."""
    texts: list[list[int]] = [[] for _ in rows]
    open_rows = list(range(len(rows)))
    for step in range(most_tokens):
        chosen = SAMPLER.choose(
            logits_of(len(rows), 1000 * seed + step)[open_rows], [rows[i] for i in open_rows]
        )
        assert not chosen.failures
        for index, token in zip(open_rows, chosen.tokens, strict=True):
            if token not in ENDS:
                texts[index].append(token)
                rows[index].append(token)
        open_rows = [i for i, t in zip(open_rows, chosen.tokens, strict=True) if t not in ENDS]
        if not open_rows:
            break
    assert not open_rows
    return texts


def allowed(one: Matcher, size: int = SIZE) -> set[int]:
    masks = Masks(size).of([(one, ())])
    bits = np.unpackbits(masks.view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


def _is_pod(text: str) -> bool:
    value = json.loads(text)
    return (
        isinstance(value, dict)
        and {"name", "replicas"} <= set(value) <= {"name", "replicas", "labels", "ready"}
        and re.fullmatch("[a-z]{1,8}", value["name"]) is not None
        and type(value["replicas"]) is int
        and 0 <= value["replicas"] <= 120
        and all(label in ("a", "b", "é\n") for label in value.get("labels", []))
        and len(value.get("labels", [])) <= 3
        and value.get("ready", True) in (True, False, None)
    )


POD = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]{1,8}$"},
        "replicas": {"type": "integer", "minimum": 0, "maximum": 120},
        "labels": {"type": "array", "items": {"enum": ["a", "b", "é\n"]}, "maxItems": 3},
        "ready": {"type": ["boolean", "null"]},
    },
    "required": ["name", "replicas"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
LARK = """
start: sum
sum: product ("+" product){0,3}
product: NUMBER ("*" NUMBER){0,2}
NUMBER: /[1-9][0-9]{0,3}/
"""
EXPLOSIVE = LLMatcher.grammar_from_lark(
    "start: X\nX: /(a|b)*a(a|b){25}/ & ~/(a|b)*b(a|b){24}/ & /(.*ab.*){9}/"
)
LANGUAGES: dict[str, tuple[str, Callable[[str], bool]]] = {
    "schema": (schema(POD), _is_pod),
    "choice": (
        schema({"enum": ["yes", "no", 7, None]}),
        lambda text: json.loads(text) in ("yes", "no", 7, None),
    ),
    "text": (
        schema({"type": "string", "minLength": 3, "maxLength": 9}),
        lambda text: 3 <= len(json.loads(text)) <= 9,
    ),
    "regex": (
        regex(r"[0-9]{1,3}(\.[0-9]{1,3}){3}"),
        lambda text: re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3}){3}", text) is not None,
    ),
    "beyond ascii": (
        regex("(grüß|日本|🙂){2,5}"),
        lambda text: re.fullmatch("(grüß|日本|🙂){2,5}", text) is not None,
    ),
    "lark": (
        LLMatcher.grammar_from_lark(LARK),
        lambda text: re.fullmatch(r"[1-9]\d{0,3}([+*][1-9]\d{0,3})*", text) is not None,
    ),
}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    names=st.lists(st.sampled_from(sorted(LANGUAGES)), min_size=1, max_size=12),
    seed=st.integers(0, 10**6),
    temperature=st.sampled_from([0.0, 1.0, 5.0]),
    top_p=st.sampled_from([1.0, 0.7]),
)
def test_random_logits_give_text_of_the_language(
    names: list[str], seed: int, temperature: float, top_p: float, grammars: Grammars
) -> None:
    rows = [
        Row(
            Sampling(temperature=temperature, top_p=top_p, seed=seed + i),
            [1, 2],
            matcher=matcher(grammars, LANGUAGES[name][0]),
        )
        for i, name in enumerate(names)
    ]
    for name, tokens in zip(names, answers(rows, seed), strict=True):
        text = TOKENIZER.decode(tokens, skip_special_tokens=False)
        assert LANGUAGES[name][1](text), (name, text)


def test_two_hundred_rows_with_and_without_grammars_do_not_disturb_each_other(
    grammars: Grammars,
) -> None:
    names = sorted(LANGUAGES)

    def row(index: int, *, constrained: bool) -> Row:
        sampling = Sampling(temperature=index % 3 * 0.3, top_p=1 - index % 5 * 0.1, seed=index)
        grammar = LANGUAGES[names[index % len(names)]][0]
        return Row(sampling, [1], matcher=matcher(grammars, grammar) if constrained else None)

    mixed = [row(index, constrained=index % 2 == 0) for index in range(200)]
    free = [row(index, constrained=False) for index in range(200)]
    texts: list[list[int]] = [[] for _ in mixed]
    for step in range(25):
        logits = logits_of(200, step)
        chosen = SAMPLER.choose(logits.clone(), mixed)
        assert not chosen.failures
        assert chosen.tokens[1::2] == SAMPLER.choose(logits, free).tokens[1::2]
        for index, token in enumerate(chosen.tokens):
            texts[index].append(token)
            mixed[index].append(token)
            free[index].append(token)
    ended = 0
    for index in range(0, 200, 2):
        end = next((at for at, token in enumerate(texts[index]) if token in ENDS), None)
        if end is not None:
            assert set(texts[index][end:]) <= ENDS  # nothing follows the end
            text = TOKENIZER.decode(texts[index][:end], skip_special_tokens=False)
            assert LANGUAGES[names[index % len(names)]][1](text)
            ended += 1
    assert ended > 50


def test_a_complete_grammar_leaves_only_the_end(grammars: Grammars) -> None:
    one = matcher(grammars, regex("ab"))
    for token in TOKENIZER.encode("ab").ids:
        assert not one.complete
        one.append(token)
    assert one.complete
    assert allowed(one) == ENDS
    row = Row(Sampling(temperature=0, min_tokens=50), [1], [7], matcher=one)
    assert SAMPLER.choose(logits_of(1, 1), [row]).tokens[0] in ENDS


def test_min_tokens_holds_where_the_grammar_can_go_on(grammars: Grammars) -> None:
    row = Row(Sampling(seed=1, min_tokens=9), [1], matcher=matcher(grammars, regex("[ab]*")))
    (tokens,) = answers([row], seed=3)
    assert len(tokens) >= 9


def test_special_tokens_are_no_text(grammars: Grammars) -> None:
    one = matcher(grammars, regex(r"(.|\n)*"))
    assert allowed(one) >= {0, 3, *TOKENIZER.encode("Kubernetes").ids}
    assert not allowed(one) & {1, 2, 4, 5}
    row = Row(Sampling(), [1], matcher=matcher(grammars, schema({"const": "<|user|><|end|>"})))
    (tokens,) = answers([row], seed=1)
    assert not set(tokens) & set(range(6))
    assert TOKENIZER.decode(tokens, skip_special_tokens=False) == '"<|user|><|end|>"'


def test_a_grammar_can_name_a_special_token_by_its_number(grammars: Grammars) -> None:
    one = matcher(grammars, LLMatcher.grammar_from_lark('start: <[4]> "a"'))
    assert allowed(one) == {4}


def test_tokens_that_only_pad_the_vocabulary_never_come() -> None:
    padded = Grammars(HELMSMAN, SIZE + 100, ENDS)
    one = matcher(padded, regex(r"(.|\n)*"))
    assert max(allowed(one, SIZE + 100)) < SIZE
    logits = torch.zeros(1, SIZE + 100)
    logits[0, SIZE:] = 50.0
    chosen = Sampler(SIZE + 100).choose(logits, [Row(Sampling(), [1], matcher=one)])
    assert chosen.tokens[0] < SIZE
    padded.close()


def test_tokens_can_be_taken_back(grammars: Grammars) -> None:
    one = matcher(grammars, schema(POD))
    before = allowed(one)
    tokens = TOKENIZER.encode('{"name":"a').ids
    for token in tokens:
        one.append(token)
    assert allowed(one) != before
    one.rollback(len(tokens))
    assert allowed(one) == before


def test_answers_share_a_compiled_grammar_and_nothing_else(grammars: Grammars) -> None:
    first, second = (matcher(grammars, regex("(yes|no)!")) for _ in range(2))
    before = allowed(second)
    first.append(TOKENIZER.encode("yes").ids[0])
    assert allowed(second) == before != allowed(first)


@pytest.mark.parametrize(
    ("grammar", "says"),
    [
        ("", "Empty grammar"),
        (regex("a("), "unclosed group"),
        (LLMatcher.grammar_from_lark('start: "a" missing'), "missing"),
        (schema({"type": "strange"}), "strange"),
        (LLMatcher.grammar_from_lark("start: <|strange|>"), "strange"),
        (EXPLOSIVE, "expressions"),
    ],
)
def test_a_grammar_that_cannot_be_compiled_fails_with_the_reason(
    grammar: str, says: str, grammars: Grammars
) -> None:
    one = compiled(grammars, grammar)
    assert one.matcher is None
    assert "the grammar cannot be used: " in one.error
    assert says in one.error
    assert "<non-verbose" not in one.error


@pytest.mark.parametrize(
    "grammar",
    [
        pytest.param(
            LLMatcher.grammar_from_lark('start: s\ns: s s | s s s | "a" | '), id="ambiguous"
        ),
        pytest.param(regex("((a{1,1000}){1,1000}){1,1000}"), id="exploding"),
    ],
)
def test_a_grammar_that_takes_too_much_fails_alone(grammar: str, grammars: Grammars) -> None:
    slow = Row(Sampling(logit_bias={0: -100, 3: -100}), [1], matcher=matcher(grammars, grammar))
    quick = Row(Sampling(seed=1, min_tokens=10**6), [1], matcher=matcher(grammars, regex("b*")))
    for step in range(5000):
        chosen = SAMPLER.choose(logits_of(2, step), [slow, quick])
        assert 1 not in chosen.failures
        if chosen.failures:
            break
        for row, token in zip((slow, quick), chosen.tokens, strict=True):
            row.append(token)
    assert chosen.failures[0].kind == "grammar"
    again = Row(Sampling(), [1], matcher=matcher(grammars, grammar))
    assert not SAMPLER.choose(logits_of(1, 0), [again]).failures


def test_a_token_outside_the_language_fails_the_next_choice(grammars: Grammars) -> None:
    row = Row(Sampling(), [1], matcher=matcher(grammars, regex("ab")))
    row.append(TOKENIZER.encode("z").ids[0])
    assert SAMPLER.choose(logits_of(1, 0), [row]).failures[0].kind == "grammar"


def test_a_model_without_a_usable_tokenizer_refuses_grammars_only(tmp_path: Path) -> None:
    missing = Grammars(tmp_path, SIZE, ENDS)
    assert "tokenizer" in compiled(missing, regex("a")).error
    endless = Grammars(HELMSMAN, SIZE, [])
    assert "end token" in compiled(endless, regex("a")).error
    missing.close()
    endless.close()


def test_nobody_hears_of_a_cancelled_request(grammars: Grammars) -> None:
    grammars.submit(8, regex("cancelled{1,200}"))
    grammars.cancel(8)
    grammars.cancel(8)
    assert compiled(grammars, regex("later"), id=9).id == 9


def test_what_nobody_waits_for_is_not_compiled() -> None:
    compiler = Grammars(HELMSMAN, SIZE, ENDS)
    for id in range(300):
        compiler.submit(id, regex(f"a{{{id}}}(b|c)*"), b"one")
        compiler.cancel(id)
    assert len(compiler._compiling) <= 2
    assert not compiler._lines
    assert len(compiler._kept) <= 2
    compiler.close()


def test_callers_take_turns_with_their_grammars() -> None:
    compiler = Grammars(HELMSMAN, SIZE, ENDS)
    for id in range(100):
        compiler.submit(id, regex(f"a{{{id}}}(b|c)*"), b"one")
    compiler.submit(1000, regex("later"), b"other")
    done: list[int] = []
    deadline = time.monotonic() + 60
    while len(done) < 101:
        assert time.monotonic() < deadline
        done += [each.id for each in compiler.poll()]
        time.sleep(0.0005)
    assert done.index(1000) < 10
    compiler.close()


def test_few_grammars_are_kept_however_many_come() -> None:
    compiler = Grammars(HELMSMAN, SIZE, ENDS)
    for number in range(200):
        matcher(compiler, regex(f"a{{{number}}}b"))
    compiler.submit(1, regex("a{199}b"))
    assert [one.id for one in compiler.poll()] == [1]  # at once: it was kept
    assert len(compiler._kept) <= 64
    compiler.close()


def test_a_mask_costs_less_than_a_fifth_of_a_millisecond(grammars: Grammars) -> None:
    rows = [
        Row(Sampling(seed=i), [1], matcher=matcher(grammars, schema({"type": "object"})))
        for i in range(64)
    ]
    places = [(row.matcher, ()) for row in rows if row.matcher is not None]
    masks, each_s = Masks(SIZE), []
    for step in range(20):
        started = time.perf_counter()
        masks.of(places)
        each_s.append((time.perf_counter() - started) / len(rows))
        chosen = SAMPLER.choose(logits_of(64, step), rows)
        for row, token in zip(rows, chosen.tokens, strict=True):
            row.append(token)
    assert statistics.quantiles(each_s)[0] < 200e-6  # the other steps wait for other processes


def test_answers_with_a_draft_and_without_one_are_masked_in_one_step(grammars: Grammars) -> None:
    (letter,) = TOKENIZER.encode("a").ids
    one, two, three = (matcher(grammars, regex("[a-z]+")) for _ in range(3))
    (alone,) = Masks(SIZE).of([(one, ())])
    slow = Masks(SIZE)
    slow._watched = True  # then they are computed one by one
    for each in (Masks(SIZE), slow):
        masks = each.of([(one, ()), (two, (letter, letter)), (three, ())])
        assert len(masks) == 1 + 3 + 1
        assert all(np.array_equal(masks[row], alone) for row in (0, 1, 4))
        assert all(row.any() for row in masks)
