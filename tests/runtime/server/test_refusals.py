"""Wrong requests: OpenAI's error body, the right status, an engine that lives on."""

import gzip
import json
import socket
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aweigh_http.errors import ApiError
from aweigh_runtime.server.openai.requests import CompletionRequest, parse
from tests.runtime.serving import MODEL, Served

MESSAGES = [{"role": "user", "content": "hi"}]
CHAT = {"model": MODEL, "messages": MESSAGES, "max_tokens": 1}


def post(server: Served, body: Any, path: str = "/v1/chat/completions") -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{server.url}{path}", content=content)


def error_of(response: httpx.Response) -> dict[str, Any]:
    (error,) = response.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return dict(error)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut short"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"null", id="null"),
        pytest.param(b'"x"', id="a string"),
        pytest.param(b"{} {}", id="two objects"),
        pytest.param(b"[" * 100_000, id="deep lists"),
        pytest.param(b'{"a":' * 100_000, id="deep objects"),
        pytest.param(b'{"model": "\xff"}', id="not UTF-8"),
        pytest.param(b'{"model": "\\ud800"}', id="half a surrogate pair"),
        pytest.param(b'{"model": "\\ud800 and more text"}', id="half a pair within text"),
        pytest.param(b'{"temperature": NaN}', id="not a number"),
        pytest.param(b'{"temperature": 1e400}', id="beyond any float"),
        pytest.param(b"\x1f\x8b\x08", id="binary"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(server: Served, body: bytes) -> None:
    response = post(server, body)
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
        ),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 2**63}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": "x" * 257}, "stop"),
        ({"stop": [1]}, "stop[0]"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"presence_penalty": -2.1}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"8192": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {str(id): 0 for id in range(301)}}, "logit_bias"),
        ({"stop_token_ids": [8192]}, "stop_token_ids"),
        ({"stop_token_ids": [1] * 65}, "stop_token_ids"),
        ({"min_tokens": 2}, "min_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": -1, "max_tokens": 2048}, "truncate_prompt_tokens"),
        ({"max_tokens": 8.5}, "max_tokens"),
        ({"n": 9.0}, "n"),
        ({"seed": 1e300}, "seed"),
        ({"cache_salt": ""}, "cache_salt"),
        ({"cache_salt": "x" * 257}, "cache_salt"),
        ({"priority": 2**31}, "priority"),
        ({"ignore_eos": 1}, "ignore_eos"),
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"logits_processors": ["x"]}, "logits_processors"),
        ({"prompt_embeds": "x"}, "prompt_embeds"),
        ({"allowed_token_ids": [1]}, "allowed_token_ids"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
    ],
    ids=lambda value: None if isinstance(value, str) else json.dumps(value)[:60],
)
def test_a_field_that_is_wrong_is_named(server: Served, fields: dict[str, Any], param: str) -> None:
    body = {name: value for name, value in {**CHAT, **fields}.items() if value is not None}
    response = post(server, body)
    assert response.status_code == 400, response.text
    error = error_of(response)
    assert error["param"] == param
    assert param in error["message"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"max_tokens": "5"},
            "'max_tokens' is \"5\"; expected an integer from 1 to 2147483648.",
        ),
        ({"temperature": 3}, "'temperature' is 3; expected a number from 0 to 2."),
        ({"top_p": 0}, "'top_p' is 0; expected a number above 0, at most 1."),
        ({"stream": 1}, "'stream' is 1; expected true or false."),
        ({"messages": []}, "'messages' is a list of 0 items; expected a list of 1 to 4096 items."),
        (
            {"stop": "x" * 257},
            "'stop' is a text of 257 characters; expected a text of up to 256 characters or a list "
            "of up to 4 items.",
        ),
        ({"logit_bias": {"5": "x"}}, "A value in 'logit_bias' is not a number from -100 to 100."),
        (
            {"logit_bias": {"x": 5}},
            "A name in 'logit_bias' is not an integer from 0 to 2147483647.",
        ),
        (
            {"response_format": {"type": "yaml"}},
            '\'response_format.type\' is "yaml"; expected "json_object" or "json_schema" or '
            '"text".',
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]},
            "'messages[0].tool_calls[0].function' is missing; expected an object.",
        ),
        (
            {"structured_outputs": {"xml": ""}},
            "'structured_outputs' has \"xml\"; expected json, regex, choice, grammar, json_object.",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else json.dumps(value)[:60],
)
def test_a_field_that_is_wrong_is_told_as_what_it_is_and_what_was_expected(
    server: Served, fields: dict[str, Any], sentence: str
) -> None:
    assert error_of(post(server, {**CHAT, **fields}))["message"] == sentence


def test_neutral_values_that_clients_always_send_are_accepted(server: Served) -> None:
    neutral = {
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "logprobs": False,
        "tools": [],
        "response_format": {"type": "text"},
        "stop": None,
        "n": 1,
        "user": "somebody",
        "metadata": {"a": "b"},
        "store": False,
        "a_name_nobody_knows": {"deep": [1]},
    }
    assert post(server, {**CHAT, **neutral}).status_code == 200


def test_of_a_name_that_comes_twice_the_last_counts(server: Served) -> None:
    body = json.dumps(CHAT).encode()[:-1] + b', "max_tokens": 2}'
    assert post(server, body).json()["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    "prompt",
    [
        None,
        [],
        {},
        5,
        [5, "a"],
        [[]],
        ["a", 5],
        [True],
        [-1],
        [8192],
        [2**63],
        [1.0],
        ["a"] * 33,
        "",
    ],
    ids=json.dumps,
)
def test_a_prompt_that_is_none_is_refused(server: Served, prompt: Any) -> None:
    response = server.complete(prompt)
    assert response.status_code == 400, response.text
    error_of(response)


def test_a_prompt_that_is_too_long_is_refused_with_the_numbers(server: Served) -> None:
    error = error_of(server.complete([7] * 3000))
    assert error["code"] == "context_length_exceeded"
    assert "2048" in error["message"]
    assert "3000" in error["message"]
    assert server.complete([7] * 2000, max_tokens=49).status_code == 400
    assert server.complete([7] * 2000, max_tokens=48).status_code == 200
    assert server.chat("word " * 3000).json()["error"]["code"] == "context_length_exceeded"


def test_another_model_is_not_found(server: Served) -> None:
    response = post(server, {**CHAT, "model": "gpt-4"})
    assert response.status_code == 404
    assert error_of(response)["code"] == "model_not_found"


def test_a_body_over_the_limit_is_refused(server: Served) -> None:
    response = post(server, b" " * (4 << 20) + b"{}")
    assert response.status_code == 413
    error_of(response)


def test_a_compressed_body_is_refused(server: Served) -> None:
    response = httpx.post(
        f"{server.url}/v1/chat/completions",
        content=gzip.compress(json.dumps(CHAT).encode()),
        headers={"Content-Encoding": "gzip"},
    )
    assert response.status_code == 415
    error_of(response)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/metrics", 404),  # the admin port's
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "//v1/chat/completions", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("POST", "/V1/chat/completions", 404),
    ],
)
def test_wrong_routes_get_the_same_error_body(
    server: Served, method: str, path: str, status: int
) -> None:
    response = httpx.request(method, f"{server.url}{path}")
    assert response.status_code == status
    error_of(response)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: a/?x=\r\nContent-Length: nine\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
    ids=["TLS", "unknown version", "long line", "strange length", "two lengths", "long header"],
)
def test_what_is_not_http_is_refused_at_the_door(server: Served, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(raw)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer.split(b"\r\n")[0].split(b" ")[1] == b"400"
    assert b"Traceback" not in answer


@given(st.binary(max_size=200))
def test_random_bytes_never_get_past_parsing_by_accident(body: bytes) -> None:
    with pytest.raises(ApiError):
        parse(body, CompletionRequest)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(max_size=200))
def test_any_text_is_answered(server: Served, text: str) -> None:
    response = server.chat(text, max_tokens=1)
    assert response.status_code == 200, response.text


def test_the_engine_lives_after_all_this(server: Served) -> None:
    assert server.chat(max_tokens=1).status_code == 200
    assert server.admin("/livez").status_code == 200
