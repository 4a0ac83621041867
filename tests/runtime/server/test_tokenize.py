"""/tokenize and /detokenize, as vLLM's clients use them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aweigh_http.errors import ApiError
from aweigh_runtime.server.openai.submissions import MIN_TEXT_BYTES, expect_within_reach
from tests.runtime.server.local import ready
from tests.runtime.serving import MODEL, Served
from tests.runtime.text.helmsman import BACKEND


def post(server: Served, route: str, **fields: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/{route}", json=fields, timeout=60)


def tokens_of(server: Served, **fields: Any) -> list[int]:
    response = post(server, "tokenize", **fields)
    assert response.status_code == 200, response.text
    reply = response.json()
    assert reply["count"] == len(reply["tokens"])
    assert reply["max_model_len"] == 2048
    return list(reply["tokens"])


def test_a_text_is_counted_and_comes_back(server: Served) -> None:
    tokens = tokens_of(server, model=MODEL, prompt="What is a Pod? 🐳")
    back = post(server, "detokenize", model=MODEL, tokens=tokens)
    assert back.json() == {"prompt": "What is a Pod? 🐳"}
    assert server.complete(tokens, max_tokens=1).json()["usage"]["prompt_tokens"] == len(tokens)


def test_a_chat_has_the_tokens_that_it_is_answered_with(server: Served) -> None:
    messages = [{"role": "user", "content": "What is a Pod?"}]
    tokens = tokens_of(server, messages=messages)
    assert server.chat(max_tokens=1).json()["usage"]["prompt_tokens"] == len(tokens)
    text = post(server, "detokenize", tokens=tokens).json()["prompt"]
    assert text == "<|user|>What is a Pod?<|end|><|assistant|>"


def test_the_tools_of_a_chat_are_counted_too(server: Served) -> None:
    messages = [{"role": "user", "content": "What is a Pod?"}]
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": {}}}]
    tokens = tokens_of(server, messages=messages, tools=tools)
    assert len(tokens) > len(tokens_of(server, messages=messages))
    assert server.chat(max_tokens=1, tools=tools).json()["usage"]["prompt_tokens"] == len(tokens)


def test_token_strings_are_those_of_the_vocabulary(server: Served) -> None:
    reply = post(server, "tokenize", prompt="a Pod", return_token_strs=True).json()
    assert reply["token_strs"] == [BACKEND.id_to_token(id) for id in reply["tokens"]]
    assert post(server, "tokenize", prompt="a Pod").json()["token_strs"] is None


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.integers(0, 8191), max_size=20))
def test_any_ids_have_a_text(server: Served, ids: list[int]) -> None:
    text = post(server, "detokenize", tokens=ids).json()["prompt"]
    assert text == BACKEND.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize(
    ("route", "fields", "param"),
    [
        ("tokenize", {}, "prompt"),
        ("tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ("tokenize", {"prompt": 5}, "prompt"),
        ("tokenize", {"prompt": ["a"]}, "prompt"),
        ("tokenize", {"messages": []}, "messages"),
        ("tokenize", {"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role"),
        ("tokenize", {"prompt": "a" * 1_000_000}, None),
        ("detokenize", {}, "tokens"),
        ("detokenize", {"tokens": "a"}, "tokens"),
        ("detokenize", {"tokens": [8192]}, "tokens"),
        ("detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("detokenize", {"tokens": [2**63]}, "tokens[0]"),
        ("detokenize", {"tokens": [True]}, "tokens[0]"),
        ("detokenize", {"tokens": [1] * 2049}, "tokens"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_bodies_are_refused(
    server: Served, route: str, fields: dict[str, Any], param: str | None
) -> None:
    response = post(server, route, **fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_another_model_is_not_found_here_either(server: Served) -> None:
    assert post(server, "tokenize", model="gpt-4", prompt="a").status_code == 404
    assert post(server, "detokenize", model="gpt-4", tokens=[1]).status_code == 404


async def test_a_text_that_only_a_strange_model_could_hold_is_not_tokenized(
    tmp_path: Path,
) -> None:
    async with ready(tmp_path) as local:
        model = local.service.model()
        limits = msgspec.structs.replace(model.limits, max_model_len=1 << 17)
        roomy = replace(model, limits=limits)  # 8 MiB, if all its tokens were of the longest
        expect_within_reach(roomy, "a" * MIN_TEXT_BYTES)
        with pytest.raises(ApiError, match="1048577 bytes; expected 1048576 at most"):
            expect_within_reach(roomy, "a" * (MIN_TEXT_BYTES + 1))
