"""Drafted, verified and replaced tokens follow the target's distribution, not the draft's."""

import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from llguidance import LLMatcher
from numpy.typing import NDArray

from aweigh_runtime.engine.matcher import Matcher, Prototype
from aweigh_runtime.engine.messages import Sampling
from aweigh_runtime.engine.sampling import choice
from aweigh_runtime.engine.sampling.choice import Sampler
from aweigh_runtime.engine.sampling.drafting import DraftSampler
from aweigh_runtime.engine.sampling.drawing import Draws
from aweigh_runtime.engine.sampling.row import Row
from aweigh_runtime.engine.sampling.verification import Ahead, Drafted, compare
from aweigh_runtime.text.grammar_compiler import compile_grammar, load_tokenizer
from tests.runtime.engine.test_sampling_distribution import (
    ANSWER,
    BATCH,
    DRAWS,
    LOGITS,
    PROMPT,
    SIZE,
    UNLIKELY,
    likelihood,
    wanted,
)

DRAFT = torch.tensor([0.3, 2.4, 0.1, 1.0, 1.9, -1.0, 0.5, -2.1, 0.2, -0.6, -3.0, 0.9])
LENGTH = 2
GRAMMAR = "ccda[cdfgj][a-k]*"  # ANSWER, a token that is neither's likeliest, then any
ALLOWED = [2, 3, 5, 6, 9]
CPU = torch.device("cpu")
Propose = Callable[[Sequence[Row]], list[Drafted]]
Verdicts = dict[int, tuple[bool, int]]


def drafted(rows: Sequence[Row]) -> list[Drafted]:
    sampler = DraftSampler(rows, CPU)
    places = [sampler.draw(DRAFT.repeat(len(rows), 1))[0].tolist() for _ in range(LENGTH)]
    return [
        Drafted([place[index] for place in places], sampler.probabilities(index, LENGTH))
        for index in range(len(rows))
    ]


def looked_up(rows: Sequence[Row]) -> list[Drafted]:
    """Without a distribution, as n-gram lookup proposes; some answers have nothing to look up."""
    return [Drafted([1, row.sampling.seed % SIZE][: row.sampling.seed % 3]) for row in rows]


@pytest.fixture(scope="module")
def grammar(tmp_path_factory: pytest.TempPathFactory) -> Prototype:
    """`GRAMMAR` in a vocabulary of a letter for each token; the last one ends an answer."""
    last = SIZE - 1
    vocabulary = {chr(ord("a") + token): token for token in range(last)} | {"<end>": last}
    end = {"id": last, "content": "<end>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    octets = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    tokenizer = {
        "added_tokens": [{**end, **flags}],
        "pre_tokenizer": octets,
        "decoder": octets,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
    file = tmp_path_factory.mktemp("letters") / "tokenizer.json"
    file.write_text(json.dumps(tokenizer))
    tokens = load_tokenizer(file, SIZE, [last])
    return Prototype(compile_grammar(tokens, LLMatcher.grammar_from_regex(GRAMMAR)), 0.0)


def rows_of(sampling: Sampling, grammar: Prototype | None = None) -> list[Row]:
    fields = {name: getattr(sampling, name) for name in Sampling.__struct_fields__}
    rows = []
    for seed in range(BATCH):
        matcher = None if grammar is None else Matcher(grammar, frozenset((SIZE - 1,)))
        rows.append(Row(Sampling(**{**fields, "seed": seed}), PROMPT, matcher=matcher))
    for row in rows:
        for token in ANSWER:
            row.append(token)
    return rows


def first_tokens(
    sampling: Sampling, propose: Propose, grammar: Prototype | None = None, draws: int = DRAWS
) -> NDArray[np.int64]:
    """How often each token comes first."""
    rows = rows_of(sampling, grammar)
    total = np.zeros(SIZE, np.int64)
    for position in range(draws // BATCH):
        for row in rows:
            row.position = len(PROMPT + ANSWER) + position
        behind = propose(rows)
        count = sum(1 + len(each.tokens) for each in behind)
        found = Sampler(SIZE).verify(LOGITS.repeat(count, 1), rows, behind)
        total += np.bincount([tokens[0] for tokens in found.tokens], minlength=SIZE)
    return total


PENALTIES = Sampling(repetition_penalty=1.4, presence_penalty=0.4, top_p=0.9)


@pytest.mark.parametrize(
    ("sampling", "propose"),
    [
        pytest.param(Sampling(), drafted, id="plain"),
        pytest.param(Sampling(), looked_up, id="plain, looked up"),
        pytest.param(Sampling(temperature=0.6, min_p=0.05), drafted, id="temperature and min_p"),
        pytest.param(Sampling(top_k=3), drafted, id="top_k"),
        pytest.param(Sampling(top_p=0.8), drafted, id="top_p"),
        pytest.param(PENALTIES, drafted, id="penalties"),
        pytest.param(PENALTIES, looked_up, id="penalties, looked up"),
        pytest.param(Sampling(logit_bias={11: 4.0, 0: -100.0}), drafted, id="logit_bias"),
        pytest.param(Sampling(seeded=True), drafted, id="seeded"),
    ],
)
def test_the_first_token_follows_the_target(sampling: Sampling, propose: Propose) -> None:
    assert likelihood(first_tokens(sampling, propose), wanted(sampling)) > UNLIKELY


def test_pairs_of_tokens_are_independent_as_the_target_has_them() -> None:
    rows = rows_of(Sampling())
    likely = 4  # pairs of rarer tokens are too few to count
    pairs = np.zeros((likely + 1) ** 2, np.int64)
    for position in range(0, DRAWS // BATCH * 2, 2):
        for row in rows:
            row.position = position
        found = Sampler(SIZE).verify(LOGITS.repeat(BATCH * (LENGTH + 1), 1), rows, drafted(rows))
        for row in rows:
            row.position = position + 1
        alone = Sampler(SIZE).choose(LOGITS.repeat(BATCH, 1), rows).tokens
        for tokens, next_token in zip(found.tokens, alone, strict=True):
            second = tokens[1] if len(tokens) > 1 else next_token
            pairs[(likely + 1) * min(tokens[0], likely) + min(second, likely)] += 1
    probabilities = wanted(Sampling())
    merged = np.append(probabilities[:likely], probabilities[likely:].sum())
    assert likelihood(pairs, np.outer(merged, merged).flatten()) > UNLIKELY


@pytest.mark.parametrize(
    ("sampling", "propose"),
    [
        pytest.param(Sampling(), drafted, id="plain"),
        pytest.param(PENALTIES, looked_up, id="penalties and top_p, looked up"),
    ],
)
def test_under_a_grammar_the_first_token_follows_what_the_target_may_say(
    sampling: Sampling, propose: Propose, grammar: Prototype
) -> None:
    found = first_tokens(sampling, propose, grammar)
    assert likelihood(found, wanted(sampling, ALLOWED)) > UNLIKELY


def always(logits: torch.Tensor, ahead: Ahead) -> Verdicts:
    return {index: (True, other) for index, (_, other) in compare(logits, ahead).items()}


def replaced_from_the_target(logits: torch.Tensor, ahead: Ahead) -> Verdicts:
    rows = [ahead.rows[index] for index in ahead.compared]
    others = Draws().draw(logits[ahead.compared], rows).read()
    verdicts = compare(logits, ahead)
    return {
        index: (verdicts[index][0], other)
        for index, other in zip(ahead.compared, others, strict=True)
    }


def judged_without_edits(logits: torch.Tensor, ahead: Ahead) -> Verdicts:
    """Penalties and grammars count for the replacements alone."""
    plain = compare(LOGITS.repeat(len(logits), 1), ahead)
    verdicts = compare(logits, ahead)
    return {index: (stays, verdicts[index][1]) for index, (stays, _) in plain.items()}


@pytest.mark.parametrize(
    ("wrong", "sampling", "constrained"),
    [
        pytest.param(always, Sampling(), False, id="always, plain"),
        pytest.param(replaced_from_the_target, Sampling(), False, id="replaced, plain"),
        pytest.param(always, PENALTIES, False, id="always, penalties"),
        pytest.param(replaced_from_the_target, PENALTIES, False, id="replaced, penalties"),
        pytest.param(judged_without_edits, PENALTIES, False, id="no edits, penalties"),
        pytest.param(always, Sampling(), True, id="always, grammar"),
        pytest.param(replaced_from_the_target, Sampling(), True, id="replaced, grammar"),
        pytest.param(judged_without_edits, Sampling(), True, id="no edits, grammar"),
    ],
)
def test_a_verification_that_is_wrong_is_found_out(
    wrong: Callable[[torch.Tensor, Ahead], Verdicts],
    sampling: Sampling,
    constrained: bool,
    grammar: Prototype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choice, "compare", wrong)
    # A fifth of the draws is enough to tell.
    found = first_tokens(sampling, drafted, grammar if constrained else None, DRAWS // 5)
    right = wanted(sampling, ALLOWED if constrained else range(SIZE))
    assert likelihood(found, right) < UNLIKELY


def test_seeded_tokens_are_those_without_drafts() -> None:
    rows = rows_of(Sampling(seeded=True, top_p=0.9))
    found = Sampler(SIZE).verify(LOGITS.repeat(BATCH * (LENGTH + 1), 1), rows, drafted(rows))
    longest = max(map(len, found.tokens))
    assert longest == LENGTH + 1
    for place in range(longest):
        alone = Sampler(SIZE).choose(LOGITS.repeat(BATCH, 1), rows).tokens
        for tokens, token in zip(found.tokens, alone, strict=True):
            assert tokens[place : place + 1] in ([], [token])
        for row in rows:
            row.append(0)
