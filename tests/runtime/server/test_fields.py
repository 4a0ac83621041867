"""What each field does to the answer, and that no value of any field breaks the server."""

import json
import math
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from aweigh_http.errors import ApiError
from aweigh_runtime.server.openai.requests import (
    ChatRequest,
    CompletionRequest,
    Parameters,
    parse,
)
from tests.runtime.serving import MODEL, Served
from tests.runtime.text.helmsman import BACKEND

CHAT = {"messages": [{"role": "user", "content": "What is a Pod?"}]}
END = 3


def ids(text: str) -> list[int]:
    return list(BACKEND.encode(text, add_special_tokens=False).ids)


def text_of(response: httpx.Response, choice: int = 0) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][choice]["text"])


def finish_of(response: httpx.Response) -> str:
    return str(response.json()["choices"][0]["finish_reason"])


def test_a_bias_of_a_hundred_decides_and_one_of_minus_a_hundred_forbids(server: Served) -> None:
    (wanted,) = ids(" Pod")
    forced = server.complete("A", temperature=1, max_tokens=3, logit_bias={str(wanted): 100})
    assert text_of(forced) == " Pod Pod Pod"
    plain = text_of(server.complete("A Pod", temperature=0, max_tokens=1))
    (likeliest,) = ids(plain)
    other = server.complete("A Pod", temperature=0, max_tokens=1, logit_bias={likeliest: -100})
    assert text_of(other) != plain


def test_a_whole_number_may_be_written_with_a_point(server: Served) -> None:
    fields = {"temperature": 0, "ignore_eos": True, "n": 2.0, "seed": -0.0, "logprobs": 1.0}
    response = server.complete("A Pod", max_tokens=8.0, **fields)
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["completion_tokens"] == 16


def test_a_token_that_the_model_lacks_is_named(server: Served) -> None:
    for prompt, token in (([-1], "-1"), ([[5, 8192]], "8192"), ([10**60], "many digits")):
        error = server.complete(prompt).json()["error"]
        assert (error["param"], token in error["message"]) == ("prompt", True)


def test_penalties_keep_tokens_from_coming_again(server: Served) -> None:
    fields = {"temperature": 0, "max_tokens": 60, "ignore_eos": True, "logprobs": 0}

    def distinct(**penalty: float) -> int:
        reply = server.complete("A Pod", **fields, **penalty).json()
        return len(set(reply["choices"][0]["logprobs"]["tokens"]))

    plain = distinct()
    assert plain < 60
    for name in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
        assert distinct(**{name: 2}) > plain, name


def test_the_answer_goes_on_for_min_tokens_and_with_ignore_eos(server: Served) -> None:
    bias = {"logit_bias": {str(END): 100}, "max_tokens": 20, "temperature": 0}
    assert server.complete("A", **bias).json()["usage"]["completion_tokens"] == 1
    longer = server.complete("A", **bias, min_tokens=5)
    assert longer.json()["usage"]["completion_tokens"] == 6
    assert finish_of(longer) == "stop"
    endless = server.complete("A", **bias, ignore_eos=True)
    assert endless.json()["usage"]["completion_tokens"] == 20
    assert finish_of(endless) == "length"


def test_stop_strings_count_only_after_min_tokens(server: Served) -> None:
    (word,) = ids(" Pod")
    fields = {"logit_bias": {str(word): 100}, "max_tokens": 9, "stop": " Pod Pod"}
    assert text_of(server.complete("A", **fields)) == ""
    assert text_of(server.complete("A", **fields, min_tokens=3)) == " Pod Pod Pod"


def test_special_tokens_are_shown_to_who_asks_for_them(server: Served) -> None:
    fields = {"logit_bias": {str(END): 100}, "max_tokens": 2, "ignore_eos": True}
    assert text_of(server.complete("A", **fields)) == ""
    shown = server.complete("A", **fields, skip_special_tokens=False)
    assert text_of(shown) == "<|end|><|end|>"


def test_a_stop_token_ends_the_answer_and_shows_when_kept(server: Served) -> None:
    (word,) = ids(" Pod")
    fields = {"logit_bias": {str(word): 100}, "max_tokens": 9, "stop_token_ids": [word]}
    ended = server.complete("A", **fields)
    assert (text_of(ended), finish_of(ended)) == ("", "stop")
    assert text_of(server.complete("A", **fields, include_stop_str_in_output=True)) == " Pod"


def test_a_stop_string_shows_when_kept(server: Served) -> None:
    (word,) = ids(" Pod")
    fields = {"logit_bias": {str(word): 100}, "max_tokens": 9, "stop": ["od P"]}
    assert text_of(server.complete("A", **fields)) == " P"
    kept = server.complete("A", **fields, include_stop_str_in_output=True)
    assert text_of(kept) == " Pod P"


def test_only_the_end_of_a_prompt_is_used_when_it_is_to_be_truncated(server: Served) -> None:
    long = "The cluster has many nodes and on each of them there is a Pod"
    tail = ids(long)[-3:]
    cut = server.complete(long, truncate_prompt_tokens=3, temperature=0, max_tokens=4, echo=True)
    assert cut.json()["usage"]["prompt_tokens"] == 3
    by_ids = server.complete(tail, temperature=0, max_tokens=4, echo=True)
    assert text_of(cut) == text_of(by_ids)
    fitted = server.complete([7] * 5000, truncate_prompt_tokens=-1, max_tokens=8)
    assert fitted.json()["usage"]["prompt_tokens"] == 2040
    chat = server.chat("word " * 3000, truncate_prompt_tokens=50, max_tokens=1)
    assert chat.json()["usage"]["prompt_tokens"] == 50


@pytest.mark.parametrize("prompt", ["A  Pod\nis é🐳 ", ids("A Pod"), "<|end|>A"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_is_the_prompt_as_it_was_sent(server: Served, prompt: Any, stream: bool) -> None:
    fields = {"temperature": 0, "max_tokens": 4, "stream": stream, "stop": "A"}
    response = server.complete(prompt, echo=True, **fields)
    if stream:
        events = [line[6:] for line in response.text.split("\n\n") if line.startswith("data: {")]
        text = "".join(json.loads(event)["choices"][0]["text"] for event in events)
    else:
        text = text_of(response)
    plain = text_of(server.complete(prompt, **{**fields, "stream": False}))
    written = prompt if isinstance(prompt, str) else "A Pod"
    assert text == written + plain


def test_cached_prompt_tokens_are_counted_once_for_all_choices(server: Served) -> None:
    prompt = [11, *range(100, 160)]
    cold = server.complete(prompt, n=3, max_tokens=1).json()["usage"]
    assert cold["prompt_tokens"] == 61
    assert cold["prompt_tokens_details"]["cached_tokens"] == 0
    warm = server.complete(prompt, n=3, max_tokens=1).json()["usage"]
    assert 48 <= warm["prompt_tokens_details"]["cached_tokens"] <= 60
    both = server.complete([prompt, prompt], max_tokens=1).json()["usage"]
    assert 96 <= both["prompt_tokens_details"]["cached_tokens"] <= 120


def test_what_was_cached_under_another_salt_is_not_found(server: Served) -> None:
    prompt = [12, *range(200, 260)]

    def cached(**fields: str) -> int:
        usage = server.complete(prompt, max_tokens=1, **fields).json()["usage"]
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    assert cached() == 0
    assert cached() > 0
    assert cached(cache_salt="a") == 0
    assert cached(cache_salt="b") == 0
    assert cached(cache_salt="a") > 0


def test_every_chunk_has_the_usage_so_far_where_it_is_asked_for(server: Served) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    response = server.complete("A", stream=True, max_tokens=5, stream_options=options, min_tokens=5)
    events = [json.loads(e[6:]) for e in response.text.split("\n\n") if e.startswith("data: {")]
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts)
    assert counts[0] >= 1
    assert counts[-1] == 5


def test_the_defaults_of_other_servers_are_accepted(server: Served) -> None:
    neutral = {
        "best_of": 1, "use_beam_search": False, "length_penalty": 1.0, "priority": 0,
        "repetition_penalty": 1.0, "min_tokens": 0, "ignore_eos": False, "logit_bias": {},
        "skip_special_tokens": True, "spaces_between_special_tokens": True, "stop_token_ids": [],
        "echo": False, "suffix": None, "user": "u", "add_special_tokens": True, "top_k": -1,
        "structured_outputs": {}, "response_format": {"type": "text"}, "logprobs": None,
    }  # fmt: skip
    assert server.complete("A", max_tokens=1, **neutral).status_code == 200


KEYS = st.sampled_from(["0", "5", "-1", "8191", "8192", "9" * 20, "5.0", " 5", "x", ""])


def numeric(kind: type[msgspec.Struct]) -> list[str]:
    """Fields that hold a number."""
    numbers = (inspect.IntType, inspect.FloatType)
    fields = inspect.type_info(kind).fields  # type: ignore[attr-defined]
    return [
        field.encode_name
        for field in fields
        for option in getattr(field.type, "types", (field.type,))
        if isinstance(option, numbers)
    ]


@pytest.mark.parametrize("number", [1e300, -1e300])
def test_a_number_beyond_all_bounds_is_refused_in_every_field(
    server: Served, number: float
) -> None:
    lists = {"stop_token_ids": [number], "logit_bias": {"5": number}}
    for path, kind, rest in (
        ("v1/completions", CompletionRequest, {"prompt": "A Pod", "max_tokens": 1}),
        ("v1/chat/completions", ChatRequest, {**CHAT, "max_tokens": 1, "logprobs": True}),
    ):
        fields: dict[str, Any] = {**dict.fromkeys(numeric(kind), number), **lists}
        assert {"temperature", "top_p", "n", "seed", "max_tokens", "priority"} <= fields.keys()
        for name, value in fields.items():
            answer = httpx.post(f"{server.url}/{path}", json={**rest, name: value})
            assert answer.status_code == 400, (path, name, answer.text)
            assert answer.json()["error"]["param"].startswith(name)
    lone: list[tuple[str, dict[str, Any]]] = [
        ("v1/completions", {"prompt": [number]}),
        ("v1/completions", {"prompt": [[5, number]]}),
        ("detokenize", {"tokens": [number]}),
    ]
    for path, body in lone:
        assert httpx.post(f"{server.url}/{path}", json=body).status_code == 400, (path, body)


INTEGERS = (-1, 0, 1, 2, 20, 21, 2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30)
FLOATS = (-0.0, 0.5, 1.5, -1e-300, 1e300, -1e300, 5e-324, 100.0, 100.1)
NUMBERS = st.sampled_from(INTEGERS) | st.sampled_from(FLOATS)
WEIRD = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=4,
)
FIELDS = sorted({*ChatRequest.__struct_fields__, *CompletionRequest.__struct_fields__} - {"model"})
RAW = ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", '"\\ud800"', "[" * 2000 + "]" * 2000]


def bodies(kind: type[ChatRequest] | type[CompletionRequest]) -> st.SearchStrategy[dict[str, Any]]:
    names = sorted(set(kind.__struct_fields__) - {"model"})
    weird = st.dictionaries(st.sampled_from(names), WEIRD, min_size=1, max_size=3)
    required = CHAT if kind is ChatRequest else {"prompt": "A"}
    return weird.map(lambda fields: {"model": MODEL, "max_tokens": 1, **required, **fields})


def parsed(body: str, completion: bool) -> Parameters:
    content = body.encode()
    return parse(content, CompletionRequest) if completion else parse(content, ChatRequest)


@given(bodies(ChatRequest) | bodies(CompletionRequest))
def test_whatever_passes_is_within_bounds(body: dict[str, Any]) -> None:
    try:
        asked = parsed(json.dumps(body), "prompt" in body)
    except ApiError:
        return
    for name in asked.__struct_fields__:
        value = getattr(asked, name)
        if isinstance(value, int | float):
            assert math.isfinite(value)
            assert abs(value) <= 2**63
    assert 1 <= (asked.n or 1) <= 8
    assert (asked.alternatives or 0) <= 20
    assert (asked.prompt_logprobs or 0) <= 20
    assert len(asked.stops) <= 4
    assert all(0 <= id < 2**31 and abs(b) <= 100 for id, b in (asked.logit_bias or {}).items())


@pytest.mark.parametrize("raw", RAW, ids=lambda raw: raw[:10])
@pytest.mark.parametrize("name", FIELDS)
def test_what_is_no_json_value_is_refused_in_every_field(name: str, raw: str) -> None:
    with pytest.raises(ApiError) as refusal:
        parsed(f'{{"model": "m", "{name}": {raw}}}', name in CompletionRequest.__struct_fields__)
    assert refusal.value.status == 400


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example({"prompt": "A", "logit_bias": {"8192": 1}})
@example({"prompt": "A", "stop_token_ids": [8192]})
@example({"prompt": "A", "min_tokens": 2, "max_tokens": 1})
@example({"prompt": "A", "seed": -(2**63), "top_k": 2**31, "priority": -(2**31)})
@example({"prompt": "A", "temperature": 5e-324, "top_p": 5e-324, "min_p": 1})
@example({"prompt": "A", "repetition_penalty": 5e-324, "temperature": 1})
@given(bodies(ChatRequest) | bodies(CompletionRequest))
def test_no_value_of_any_field_breaks_the_server(server: Served, body: dict[str, Any]) -> None:
    path = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
    content = json.dumps({**body, "model": MODEL, **short(body)})
    response = httpx.post(f"{server.url}{path}", content=content, timeout=60)
    assert response.status_code in (200, 400), (body, response.text)


def short(body: dict[str, Any]) -> dict[str, Any]:
    """No answer takes long: the length is what is not tried."""
    limits = {name: body.get(name) for name in ("max_tokens", "max_completion_tokens")}
    long = {name: 8 for name, limit in limits.items() if type(limit) is int and limit > 8}
    return {"max_tokens": 1} if limits["max_tokens"] is None and not long else long


def test_the_server_lives_after_all_this(server: Served) -> None:
    assert server.complete("A", max_tokens=1).status_code == 200
    assert server.admin("/livez").status_code == 200
