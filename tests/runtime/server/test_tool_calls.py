"""Tools through the whole server. The model knows none of it: the grammar alone makes it call."""

import json
from typing import Any

import httpx
import jsonschema_rs
import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai.types.chat import (
    ChatCompletionMessageFunctionToolCall,
    ChatCompletionMessageParam,
    ChatCompletionToolParam,
)
from pydantic import BaseModel, Field, SecretStr

from tests.runtime.serving import MODEL, Served

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is a Pod?"}]
LOOK_UP: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["Pod", "Node", "Service"]},
        "fields": {"type": "array", "items": {"enum": ["spec", "status"]}, "maxItems": 2},
        "depth": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["kind", "fields", "depth"],
    "additionalProperties": False,
}
WAIT: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS: list[ChatCompletionToolParam] = [
    {"type": "function", "function": {"name": "look_up", "parameters": LOOK_UP}},
    {"type": "function", "function": {"name": "wait", "parameters": WAIT}},
]
STRICT: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "look_up", "parameters": LOOK_UP, "strict": True},
}
LOOK_UP_CHOICE: Any = {"type": "function", "function": {"name": "look_up"}}


def test_a_required_call_is_made_and_its_arguments_hold(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        tools=TOOLS,
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=200,
        seed=7,
    )
    (choice,) = reply.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls or []
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    schemas = {"look_up": LOOK_UP, "wait": WAIT}
    assert jsonschema_rs.is_valid(schemas[call.function.name], json.loads(call.function.arguments))


def test_a_streamed_call_is_the_same_as_the_whole_one(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": QUESTION,
        "tools": TOOLS,
        "tool_choice": LOOK_UP_CHOICE,
        "max_tokens": 200,
        "seed": 7,
    }
    whole = client.chat.completions.create(**asked).choices[0]
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    deltas = [call for chunk in chunks for call in chunk.delta.tool_calls or ()]
    (call,) = whole.message.tool_calls or []
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert (deltas[0].id or "").startswith("call_")
    assert deltas[0].function is not None
    assert deltas[0].function.name == call.function.name == "look_up"
    pieces = [delta.function.arguments or "" for delta in deltas if delta.function]
    assert "".join(pieces) == call.function.arguments
    assert len(pieces) > 3
    assert not any(chunk.delta.content for chunk in chunks)
    assert chunks[-1].finish_reason == whole.finish_reason == "tool_calls"
    assert jsonschema_rs.is_valid(LOOK_UP, json.loads(call.function.arguments))


@pytest.mark.parametrize("seed", range(2))
def test_with_a_format_an_answer_is_a_call_or_in_that_format(
    client: openai.OpenAI, seed: int
) -> None:
    reply = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        tools=[STRICT],
        parallel_tool_calls=False,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "look", "schema": LOOK_UP, "strict": True},
        },
        max_tokens=200,
        seed=seed,
    )
    message = reply.choices[0].message
    if message.tool_calls:
        assert message.content is None
    else:
        assert jsonschema_rs.is_valid(LOOK_UP, json.loads(message.content or ""))


def test_calls_and_results_of_earlier_turns_are_part_of_the_prompt(server: Served) -> None:
    arguments = '{"kind": "Pod", "fields": [], "depth": 1}'
    function = {"name": "look_up", "arguments": arguments}
    call = {"id": "call_1", "type": "function", "function": function}
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "What is a Pod?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "<|end|> a group of containers"},
    ]

    def num_tokens(messages: list[dict[str, Any]], **fields: Any) -> int:
        body = {"model": MODEL, "messages": messages, "max_tokens": 1, **fields}
        reply = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
        assert reply.status_code == 200, reply.text
        count: int = reply.json()["usage"]["prompt_tokens"]
        return count

    alone = num_tokens(turns[:1])
    with_calls = num_tokens(turns)
    with_tools = num_tokens(turns, tools=TOOLS)
    assert alone + len(arguments) // 8 < with_calls < with_tools - 50
    assert num_tokens(turns[:1], tools=TOOLS, tool_choice="none") == alone


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {"tools": TOOLS, "tool_choice": {**LOOK_UP_CHOICE, "function": {"name": "x"}}},
            "tool_choice",
        ),
        ({"tools": TOOLS, "tool_choice": "perhaps"}, "tool_choice"),
        ({"tools": [*TOOLS, TOOLS[0]]}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "ab\n"}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "a" * 65}}]},
            "tools[0].function.name",
        ),
        ({"tools": [TOOLS[0]] * 129}, "tools"),
    ],
    ids=[
        "required without tools",
        "an unknown function",
        "an unknown choice",
        "a name twice",
        "a custom tool",
        "no function",
        "a blank in a name",
        "a line break in a name",
        "a long name",
        "too many",
    ],
)
def test_tools_that_are_not_valid_are_refused(
    server: Served, fields: dict[str, Any], param: str
) -> None:
    reply = server.chat(**fields)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    "parameters",
    [
        {"description": "x" * 64_000},
        nested(40),
        {"maximum": 10**30},
        {"type": "string"},
    ],
    ids=["too large", "too deep", "a number beyond 64 bit", "no object"],
)
def test_schemas_beyond_the_limits_are_refused(server: Served, parameters: dict[str, Any]) -> None:
    reply = server.chat(
        tools=[{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    )
    assert reply.status_code == 400
    assert reply.json()["error"]["param"].startswith("tools[0].function.parameters")


@pytest.mark.parametrize(
    ("parameter", "problem"),
    [
        (
            {"$ref": "http://127.0.0.1:9/x"},
            "$ref is 'http://127.0.0.1:9/x'; expected a place in the same schema, as "
            "'#/$defs/name': nothing is fetched",
        ),
        ({"type": "string", "format": "unheard-of"}, "Unknown format: unheard-of"),
        ({"not": {}}, 'Unimplemented keys: ["not"]'),
        ({"$ref": "#/$defs/x"}, "Pointer '/$defs/x' does not exist"),
        (
            {"type": "string", "pattern": "("},
            "the regular expression '(' is not valid: unclosed group",
        ),
    ],
    ids=["a schema elsewhere", "an unknown format", "a keyword", "nowhere", "a pattern"],
)
@pytest.mark.parametrize("form", [None, {"type": "json_object"}], ids=["alone", "with a form"])
def test_a_strict_schema_that_cannot_be_enforced_is_refused_in_words_about_it(
    server: Served, parameter: dict[str, Any], problem: str, form: dict[str, Any] | None
) -> None:
    parameters = {"type": "object", "properties": {"a": parameter}}
    function = {"name": "f", "strict": True, "parameters": parameters}
    reply = server.chat(
        tools=[*TOOLS, {"type": "function", "function": function}], response_format=form
    )
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"] == "tools"
    expected = f"'tools' cannot be enforced: in the parameters of 'f': {problem}."
    assert error["message"] == expected


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "x"}, "messages[0].tool_call_id"),
        ({"role": "tool", "tool_call_id": "1"}, "messages[0].content"),
        (
            {"role": "user", "content": "x", "tool_calls": [{"id": "1"}]},
            "messages[0].tool_calls[0]",
        ),
    ],
    ids=["a result without a call", "a result without content", "a call without a function"],
)
def test_turns_with_tools_are_checked(server: Served, message: dict[str, Any], param: str) -> None:
    body = {"model": MODEL, "messages": [message]}
    reply = httpx.post(f"{server.url}/v1/chat/completions", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"].startswith(param)


@tool
def capital(country: str) -> str:
    """Look up a country's capital."""
    return country


class Verdict(BaseModel):
    """What to do with a Pod."""

    keep: bool
    weight: int = Field(ge=0, le=9)


@pytest.fixture
def chain(server: Served) -> ChatOpenAI:
    return ChatOpenAI(
        model=MODEL,
        base_url=f"{server.url}/v1",
        api_key=SecretStr("none"),
        max_retries=0,
        max_completion_tokens=200,
        seed=7,
    )


def test_langchain_binds_tools_and_sends_results_back(chain: ChatOpenAI) -> None:
    bound = chain.bind_tools([capital, Verdict], tool_choice="Verdict")
    question = HumanMessage("Shall it stay?")
    answer = bound.invoke([question])
    assert isinstance(answer, AIMessage)
    (call,) = answer.tool_calls
    assert call["name"] == "Verdict"
    Verdict.model_validate(call["args"])
    result = ToolMessage("done", tool_call_id=call["id"])
    assert isinstance(chain.invoke([question, answer, result], max_tokens=4), AIMessage)
    streamed = list(bound.stream([question]))
    merged = streamed[0]
    for chunk in streamed[1:]:
        merged = merged + chunk  # type: ignore[assignment]
    assert isinstance(merged, AIMessage)
    Verdict.model_validate(merged.tool_calls[0]["args"])


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_langchain_gets_structured_output(chain: ChatOpenAI, method: Any) -> None:
    structured = chain.with_structured_output(Verdict, method=method)
    assert isinstance(structured.invoke("Shall it stay?"), Verdict)
