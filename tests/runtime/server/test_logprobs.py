"""Log-probabilities: OpenAI's two forms, whole and streamed, and those of prompts."""

import asyncio
import itertools
import json
import math
from typing import Any

import openai
import pytest

from aweigh_runtime.engine.messages import TokenLogprobs
from aweigh_runtime.server.openai.choice import Token
from aweigh_runtime.server.openai.logprobs import Logprobs
from aweigh_runtime.text.tokenizer import Tokenizer
from tests.runtime.serving import MODEL, Served
from tests.runtime.text.helmsman import BACKEND, DIRECTORY

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


def chat(server: Served, **fields: Any) -> dict[str, Any]:
    response = server.chat(**{**GREEDY, "logprobs": True, **fields})
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


def completion(server: Served, prompt: Any = "A Pod is", **fields: Any) -> dict[str, Any]:
    response = server.complete(prompt, **{**GREEDY, "logprobs": 2, **fields})
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


def streamed(server: Served, path: str, **fields: Any) -> list[dict[str, Any]]:
    ask = server.chat if path == "chat" else lambda **f: server.complete("A Pod is", **f)
    text = ask(**{**GREEDY, **fields}, stream=True).text
    events = [json.loads(event[6:]) for event in text.split("\n\n") if event.startswith("data: {")]
    return [event["choices"][0] for event in events]


def test_a_chat_has_them_for_every_token_of_its_text(server: Served) -> None:
    choice = chat(server, top_logprobs=3)
    tokens = choice["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == choice["message"]["content"]
    assert bytes(itertools.chain(*(t["bytes"] for t in tokens))).decode() == "".join(
        token["token"] for token in tokens
    )
    for token in tokens:
        tops = [top["logprob"] for top in token["top_logprobs"]]
        assert len(tops) == 3
        assert tops == sorted(tops, reverse=True)
        assert token["top_logprobs"][0]["token"] == token["token"]  # greedy takes the likeliest
        assert token["logprob"] == tops[0] <= 0
        assert sum(map(math.exp, tops)) <= 1 + 1e-6


def test_without_alternatives_the_list_of_them_is_empty(server: Served) -> None:
    assert chat(server)["logprobs"]["content"][0]["top_logprobs"] == []
    assert chat(server, logprobs=False)["logprobs"] is None


@pytest.mark.parametrize("stop", [None, " contain", "s of c"])
def test_a_streamed_chat_has_the_same_ones(server: Served, stop: str | None) -> None:
    fields = {"logprobs": True, "top_logprobs": 2, "stop": stop}
    pieces = streamed(server, "chat", **fields)
    whole = chat(server, top_logprobs=2, stop=stop)
    content = [token for piece in pieces for token in (piece["logprobs"] or {}).get("content", [])]
    assert content == whole["logprobs"]["content"]
    text = "".join(piece["delta"].get("content", "") for piece in pieces)
    assert text == whole["message"]["content"]
    assert "".join(token["token"] for token in content).startswith(text)


def test_a_completion_has_them_in_four_lists(server: Served) -> None:
    choice = completion(server)
    listed = choice["logprobs"]
    assert "".join(listed["tokens"]) == choice["text"]
    begins = [*itertools.accumulate(map(len, listed["tokens"]), initial=0)][:-1]
    assert listed["text_offset"] == begins
    rows = zip(listed["tokens"], listed["token_logprobs"], listed["top_logprobs"], strict=True)
    for token, logprob, top in rows:
        assert top[token] == logprob
        assert len(top) == 2


def test_a_streamed_completion_has_the_same_lists(server: Served) -> None:
    pieces = [p for p in streamed(server, "text", logprobs=2, echo=True) if p["logprobs"]]
    whole = completion(server, echo=True)["logprobs"]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [one for piece in pieces for one in piece["logprobs"][name]] == whole[name]


def test_a_sampled_token_stands_beside_the_likeliest_ones(server: Served) -> None:
    listed = completion(server, temperature=2, seed=5, logprobs=1, max_tokens=30)["logprobs"]
    assert {len(top) for top in listed["top_logprobs"]} == {1, 2}
    for token, logprob, top in zip(
        listed["tokens"], listed["token_logprobs"], listed["top_logprobs"], strict=True
    ):
        assert logprob == top[token] == min(top.values())


def test_an_echo_has_those_of_the_prompt_which_are_those_of_generating_it(server: Served) -> None:
    generated = completion(server, [7, 500, 319], ignore_eos=True, logprobs=0)
    answer = generated["logprobs"]["tokens"]
    ids = BACKEND.encode(generated["text"], add_special_tokens=False).ids
    assert [BACKEND.decode([id]) for id in ids] == answer
    echoed = completion(server, [7, 500, 319, *ids], echo=True, logprobs=0, max_tokens=1)
    listed = echoed["logprobs"]
    assert listed["token_logprobs"][0] is listed["top_logprobs"][0] is None
    assert listed["token_logprobs"][3:-1] == pytest.approx(
        generated["logprobs"]["token_logprobs"], abs=1e-4
    )
    assert "".join(listed["tokens"]) == echoed["text"]


@pytest.mark.parametrize("prompt", ["A Pod is", [38, 657, 319], [7] * 2048], ids=len)
def test_an_echo_alone_has_the_prompt_and_no_token_of_an_answer(
    server: Served, prompt: str | list[int]
) -> None:
    generated = server.state().generated_tokens
    response = server.complete(prompt, echo=True, max_tokens=0, logprobs=1)
    assert response.status_code == 200, response.text
    reply = response.json()
    (choice,) = reply["choices"]
    text = prompt if isinstance(prompt, str) else BACKEND.decode(prompt)
    assert (choice["text"], choice["finish_reason"]) == (text, "length")
    count = reply["usage"]["prompt_tokens"]
    assert reply["usage"]["completion_tokens"] == 0
    scored = choice["logprobs"]
    assert [len(scored[name]) for name in ("tokens", "token_logprobs", "text_offset")] == [
        count
    ] * 3
    assert scored["token_logprobs"].count(None) == 1
    assert server.state().generated_tokens == generated
    if count < 2048:
        longer = completion(server, prompt, echo=True, max_tokens=1, logprobs=1)["logprobs"]
        assert longer["token_logprobs"][:count] == pytest.approx(scored["token_logprobs"], abs=1e-4)
    plain = server.complete(prompt, echo=True, max_tokens=0, n=2).json()
    assert [each["text"] for each in plain["choices"]] == [text] * 2
    pieces = streamed(server, "text", echo=True, max_tokens=0, logprobs=1)
    assert "".join(piece["text"] for piece in pieces) == "A Pod is"
    assert pieces[-1]["finish_reason"] == "length"


def test_an_answer_without_tokens_is_refused_where_nothing_is_echoed(server: Served) -> None:
    error = server.complete("A Pod", max_tokens=0).json()["error"]
    assert error["param"] == "max_tokens"
    assert "'echo': true" in error["message"]
    assert server.chat(max_tokens=0).status_code == 400


def test_prompt_logprobs_are_listed_by_token_id(server: Served) -> None:
    reply = server.complete([38, 657, 319], prompt_logprobs=1, **GREEDY).json()
    first, *others = reply["choices"][0]["prompt_logprobs"]
    assert first is None
    for id, listed in zip((657, 319), others, strict=True):
        assert listed[str(id)]["decoded_token"] == BACKEND.decode([id])
        assert min(one["rank"] for one in listed.values()) == 1
        assert len(listed) == (1 if listed[str(id)]["rank"] == 1 else 2)
    chatted = server.chat(prompt_logprobs=0, n=2, **GREEDY).json()
    assert len(chatted["prompt_logprobs"]) == chatted["usage"]["prompt_tokens"]
    again = server.complete([38, 657, 319], prompt_logprobs=1, n=2, **GREEDY).json()
    for choice in again["choices"]:
        assert choice["prompt_logprobs"][1]["657"]["logprob"] == pytest.approx(
            others[0]["657"]["logprob"], abs=1e-4
        )


def test_a_token_that_is_half_a_character_shows_its_bytes(server: Served) -> None:
    whale = BACKEND.encode("🐳", add_special_tokens=False).ids
    assert len(whale) > 1
    bias = {str(whale[0]): 100}
    choice = chat(server, logit_bias=bias, max_tokens=1)
    (token,) = choice["logprobs"]["content"]
    assert bytes(token["bytes"]) == "🐳".encode()[: len(token["bytes"])]
    assert token["token"] == "bytes:" + "".join(f"\\x{byte:02x}" for byte in token["bytes"])


def test_what_the_client_cannot_have_is_refused(server: Served) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": 0, "stream": True}, "prompt_logprobs"),
        ({"logprobs": 3}, "logprobs"),
    ]
    for fields, param in refused:
        response = server.chat(max_tokens=1, **fields)
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"] == param


def test_a_request_has_a_bounded_number_of_them(server: Served) -> None:
    fields: dict[str, Any] = {"n": 8, "prompt_logprobs": 20, "max_tokens": 1}
    response = server.complete([[7] * 1000] * 4, **fields)
    assert response.status_code == 400
    assert "expected 524288 at most" in response.json()["error"]["message"]


def test_the_openai_client_reads_both_forms(client: openai.OpenAI) -> None:
    chatted = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is a Pod?"}],
        logprobs=True,
        top_logprobs=1,
        max_tokens=2,
    )
    assert chatted.choices[0].logprobs is not None
    assert chatted.choices[0].logprobs.content is not None
    assert len(chatted.choices[0].logprobs.content) == 2
    text = client.completions.create(model=MODEL, prompt="A", logprobs=1, max_tokens=2, echo=True)
    assert text.choices[0].logprobs is not None
    assert len(text.choices[0].logprobs.tokens or []) == 3


async def test_writing_many_log_probabilities_lets_others_work() -> None:
    tokenizer = Tokenizer.load(DIRECTORY)
    logprobs = Logprobs(tokenizer.vocabulary)
    top = [(id, -float(id)) for id in range(20)]
    listed = [None, *(TokenLogprobs(-1.0, 1, top) for _ in range(24_999))]
    tokens = [Token(7, offset, one) for offset, one in enumerate(listed)]
    turns = 0

    async def work() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    of_prompt = await logprobs.prompt([7] * 25_000, listed, 20)
    whole = await logprobs.whole_text(tokens, 20)
    chat = await logprobs.whole_chat(tokens, 20)
    working.cancel()
    tokenizer.close()
    assert len(of_prompt) == 25_000
    assert turns >= 3 * 25_000 // 256
    assert whole == logprobs.text(tokens, 20)
    assert chat == logprobs.chat(tokens, 20)
