"""Drafted, verified and replaced tokens follow the target's distribution, not the draft's."""

from collections.abc import Callable, Sequence
from pathlib import Path

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
from aweigh_runtime.engine.sampling.row import Row
from aweigh_runtime.engine.sampling.verification import Ahead, Drafted, compare
from aweigh_runtime.sources.local import builtin
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
CPU = torch.device("cpu")
Propose = Callable[[Sequence[Row]], list[Drafted]]


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


def rows_of(sampling: Sampling) -> list[Row]:
    fields = {name: getattr(sampling, name) for name in Sampling.__struct_fields__}
    rows = [Row(Sampling(**{**fields, "seed": seed}), PROMPT) for seed in range(BATCH)]
    for row in rows:
        for token in ANSWER:
            row.append(token)
    return rows


def first_tokens(sampling: Sampling, propose: Propose) -> NDArray[np.int64]:
    """How often each token comes first."""
    rows = rows_of(sampling)
    total = np.zeros(SIZE, np.int64)
    for position in range(DRAWS // BATCH):
        for row in rows:
            row.position = position
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


def always(logits: torch.Tensor, ahead: Ahead) -> dict[int, tuple[bool, int]]:
    return {index: (True, other) for index, (_, other) in compare(logits, ahead).items()}


def replaced_from_the_target(logits: torch.Tensor, ahead: Ahead) -> dict[int, tuple[bool, int]]:
    rows = [ahead.rows[index] for index in ahead.compared]
    others = Sampler(SIZE).choose(logits[ahead.compared].clone(), rows).tokens
    verdicts = compare(logits, ahead)
    return {
        index: (verdicts[index][0], other)
        for index, other in zip(ahead.compared, others, strict=True)
    }


@pytest.mark.parametrize("wrong", [always, replaced_from_the_target])
def test_a_verification_that_is_wrong_is_found_out(
    wrong: Callable[[torch.Tensor, Ahead], dict[int, tuple[bool, int]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choice, "compare", wrong)
    assert likelihood(first_tokens(Sampling(), drafted), wanted(Sampling())) < UNLIKELY


def test_under_a_grammar_the_rest_of_the_target_is_followed() -> None:
    directory = builtin("helmsman-8m")
    tokens, size, count = load(directory), 8192, 500
    letters = [tokens.tokenize_str(letter)[0] for letter in "abc"]
    prototype = Prototype(compile_grammar(tokens, LLMatcher.grammar_from_regex("[abc]")), 0.0)
    logits = torch.full((size,), -9.0)
    logits[letters] = torch.tensor([1.0, 0.2, -0.4])
    logits[100] = 3.0  # what the grammar rules out is likeliest, for the target and the draft
    guessed = logits.clone()
    guessed[letters] = torch.tensor([-0.4, 1.4, 1.0])
    found = np.zeros(3, np.int64)
    for batch in range(40):
        rows = [
            Row(Sampling(seed=seed), [1], matcher=Matcher(prototype, frozenset((0, 3))))
            for seed in range(batch * count, (batch + 1) * count)
        ]
        sampler = DraftSampler(rows, CPU)
        guesses = sampler.draw(guessed.repeat(count, 1))[0].tolist()
        behind = [
            Drafted([token], sampler.probabilities(index, 1)) for index, token in enumerate(guesses)
        ]
        continued = Sampler(size).verify(logits.repeat(2 * count, 1), rows, behind)
        for answer in continued.tokens:
            found[letters.index(answer[0])] += 1
    assert likelihood(found, torch.softmax(logits[letters].double(), 0).numpy()) > UNLIKELY


def load(directory: Path):  # type: ignore[no-untyped-def]  # the library has no name for it
    return load_tokenizer(directory / "tokenizer.json", 8192, frozenset((0, 3)))


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
