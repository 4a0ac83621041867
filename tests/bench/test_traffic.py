"""Traffic has the shape that was asked for, and is the same each time."""

import json
from itertools import pairwise
from pathlib import Path
from statistics import fmean, pvariance
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aweigh_bench import traffic
from aweigh_bench.failures import BenchFailure
from aweigh_bench.traffic import Ids, Query, Words


@given(seed=st.integers(), low=st.integers(1, 50), more=st.integers(0, 50))
def test_random_prompts_keep_their_bounds_and_their_seed(seed: int, low: int, more: int) -> None:
    lengths = (low, low + more)
    queries = list(traffic.random_lengths(Ids(seed, 1000), 5, lengths, (1, 9)))
    assert queries == list(traffic.random_lengths(Ids(seed, 1000), 5, lengths, (1, 9)))
    for query in queries:
        assert low <= len(query.prompt) <= low + more
        assert 1 <= query.max_tokens <= 9
        assert all(256 <= token < 1000 for token in query.prompt if isinstance(token, int))


@given(seed=st.integers(), prefixes=st.integers(1, 4), prefix=st.integers(1, 40))
def test_shared_prefixes_are_shared_and_suffixes_are_not(
    seed: int, prefixes: int, prefix: int
) -> None:
    queries = list(traffic.shared_prefix(Ids(seed, 8000), 20, prefixes, prefix, 30, (8, 8)))
    assert {len(query.prompt) for query in queries} == {prefix + 30}
    assert len({tuple(query.prompt[:prefix]) for query in queries}) <= prefixes
    assert len({tuple(query.prompt[prefix:]) for query in queries}) == 20


def test_lengths_like_sharegpts_have_the_stated_means() -> None:
    queries = list(traffic.sharegpt_like(Ids(3, 8000), 4000, None))
    assert 120 < fmean(len(query.prompt) for query in queries) < 175
    assert 270 < fmean(query.max_tokens for query in queries) < 340
    assert max(len(query.prompt) for query in queries) <= 1024


def test_lengths_like_sharegpts_fit_a_short_model() -> None:
    queries = traffic.sharegpt_like(Ids(3, 8000), 500, 256)
    assert all(len(query.prompt) + query.max_tokens <= 256 for query in queries)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_arrivals_keep_their_rate_and_burstiness(burstiness: float) -> None:
    times = list(traffic.arrivals(1, 20_000, 50.0, burstiness))
    gaps = [after - before for before, after in pairwise(times)]
    assert times[0] == 0
    assert fmean(gaps) == pytest.approx(1 / 50, rel=0.05)
    # A gamma distribution's squared coefficient of variation is 1 / shape: 1 for Poisson.
    assert pvariance(gaps) / fmean(gaps) ** 2 == pytest.approx(1 / burstiness, rel=0.1)


def test_without_a_rate_all_come_at_once() -> None:
    assert set(traffic.arrivals(1, 5, None, 1.0)) == {0.0}


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=50, unique=True))
def test_different_ids_are_different_words(ids: list[int]) -> None:
    words = Words().text(ids).split(" ")
    assert len(set(words)) == len(ids)
    assert all(word.isalpha() for word in words)


def test_text_has_fewer_words_where_a_word_is_several_tokens() -> None:
    assert len(Words(tokens_per_word=2.5).text(list(range(100))).split(" ")) == 40
    queries = traffic.as_text(iter([Query([300, 400], 5), Query("as it is", 5)]), Words())
    first, second = (query.prompt for query in queries)
    assert isinstance(first, str)
    assert len(first.split(" ")) == 2
    assert second == "as it is"


def conversation(question: str, answer: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"conversations": turns}


def test_a_sharegpt_file_gives_first_questions_and_lengths_of_answers(tmp_path: Path) -> None:
    file = tmp_path / "chats.json"
    entries = [
        conversation("What is a Pod in Kubernetes?", "x" * 400),
        conversation("no", "x" * 400),  # too short
        conversation("What is a Service?", "x" * 100_000),  # too long
        {"conversations": [{"from": "human", "value": "a lonely question"}]},
        {"something": "else"},
        "nothing",
    ]
    file.write_text(json.dumps(entries))
    assert set(traffic.sharegpt(file, 0, 9)) == {Query("What is a Pod in Kubernetes?", 100)}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[", "is not JSON"),
        ("{}", "holds no conversation"),
        ("[1, null]", "holds no conversation"),
        (None, "cannot read"),
    ],
)
def test_a_file_that_is_not_sharegpts_is_refused(
    tmp_path: Path, content: str | None, sentence: str
) -> None:
    file = tmp_path / "chats.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(BenchFailure, match=sentence):
        traffic.sharegpt(file, 0, 1)


def test_a_vocabulary_without_room_is_refused() -> None:
    with pytest.raises(BenchFailure, match="--vocabulary is 256; expected more than 256"):
        Ids(0, 256)
