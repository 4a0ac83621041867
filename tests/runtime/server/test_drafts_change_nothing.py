"""In exact mode drafts change no answer, whatever it asks for and however short memory is."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from aweigh_runtime.sources.local import builtin
from aweigh_runtime.text.questions import questions
from tests.runtime.serving import MODEL, Served, serving

REQUESTS = 70
AT_ONCE = 8
MAX_TOKENS = 40

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "count": {"type": "integer"}},
    "required": ["name", "count"],
    "additionalProperties": False,
}
STRUCTURED = {
    "type": "json_schema",
    "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
}
KINDS: list[dict[str, Any]] = [
    {"response_format": STRUCTURED},
    {"stop": ["the", "."]},
    {"frequency_penalty": 0.8, "presence_penalty": 0.3},
    {"logprobs": True, "top_logprobs": 2},
    {"temperature": 0.9, "top_p": 0.9, "seed": 5},
    {"temperature": 1.1, "seed": 7, "response_format": STRUCTURED},
    {"temperature": 0.8, "seed": 3, "n": 2},
    {"structured_outputs": {"regex": "(one two three ){9}"}},  # n-grams are found again
]


@contextmanager
def exact(directory: Path, *flags: str) -> Iterator[Served]:
    """A server with room for two or three of the requests that run at once."""
    directory.mkdir()
    memory = ("--max-model-len=128", "--kv-cache-memory=1400Ki")
    steps = ("--step-tokens=64", "--max-running=8")
    with serving(directory, "--exact", "--dtype=fp32", *memory, *steps, *flags) as served:
        served.wait_ready()
        yield served


def answered(served: Served) -> list[list[tuple[str, str, list[tuple[str, float]]]]]:
    """Of every request its choices: text, why it ended, logprobs."""
    asked = questions(builtin("helmsman-8m"), REQUESTS // 2, random.Random(3))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(partial(_choices, served, asked), range(REQUESTS)))


def _choices(
    served: Served, asked: list[str], number: int
) -> list[tuple[str, str, list[tuple[str, float]]]]:
    question = asked[number % len(asked)]  # each is asked twice: its prompt is in the cache
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": " ".join([question] * 3)}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        **KINDS[number % len(KINDS)],
    }
    reply = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    return [
        (choice["message"]["content"], choice["finish_reason"], _scores(choice))
        for choice in reply.json()["choices"]
    ]


def _scores(choice: dict[str, Any]) -> list[tuple[str, float]]:
    listed = (choice.get("logprobs") or {}).get("content") or []
    return [(each["token"], round(each["logprob"], 4)) for each in listed]


def expect_short_of_memory(served: Served) -> None:
    """What was to be tested with has happened."""
    assert served.metric("aweigh_preemptions_total") > 0
    assert (served.state().cached_prompt_tokens or 0) > 0


def test_seventy_requests_of_all_kinds_have_the_answers_that_they_have_without_drafts(
    tmp_path: Path,
) -> None:
    with exact(tmp_path / "plain") as served:
        expected = answered(served)
        expect_short_of_memory(served)
    for drafts in ("--draft-model=builtin://helmsman-1m-draft", "--speculation=ngram"):
        with exact(tmp_path / drafts.strip("-").partition("=")[0], drafts) as served:
            got = answered(served)
            expect_short_of_memory(served)
            # How many stay depends on when drafting pays, and so on the machine.
            assert (served.state().drafted_tokens or 0) > 0, drafts
        different = [
            (number, drafts, one, other)
            for number, (one, other) in enumerate(zip(got, expected, strict=True))
            if one != other
        ]
        assert different == []
