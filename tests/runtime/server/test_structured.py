"""Answers in a form that the client sets: what it may be, and what is refused."""

import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.runtime.serving import MODEL, Served, wait_for

SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["Pod", "Node"]}, "replicas": {"type": "integer"}},
    "required": ["kind", "replicas"],
    "additionalProperties": False,
}


def content(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    assert choice["finish_reason"] == "stop", choice
    return str(choice["message"]["content"])


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": json.dumps(SCHEMA)}},
        {"guided_json": SCHEMA},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_an_answer_follows_the_schema_under_all_names(
    server: Served, fields: dict[str, Any]
) -> None:
    answer = json.loads(content(server.chat(temperature=1.5, seed=3, max_tokens=200, **fields)))
    assert set(answer) == {"kind", "replicas"}
    assert answer["kind"] in ("Pod", "Node")
    assert type(answer["replicas"]) is int


def test_json_object_gives_an_object(server: Served) -> None:
    """A model this small may never end it: what there is must be the beginning of one."""
    fields: dict[str, Any] = {"temperature": 0, "max_tokens": 60}
    reply = server.chat(response_format={"type": "json_object"}, **fields).json()["choices"][0]
    text = reply["message"]["content"]
    assert text.lstrip().startswith("{")
    if reply["finish_reason"] == "stop":
        assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"regex": r"v\d+(beta\d)?/x"}, r"v\d+(beta\d)?/x"),
        ({"choice": ["yes", 'no, "never"\n']}, 'yes|no, "never"\n'),
        ({"grammar": 'start: "a"~2 B+\nB: /[xy]/ | "."'}, r"aa[xy.]+"),
    ],
)
def test_other_forms_hold_too(server: Served, form: dict[str, Any], pattern: str) -> None:
    (name,) = form
    for n, fields in enumerate([{"structured_outputs": form}, {f"guided_{name}": form[name]}]):
        reply = server.chat(seed=n, temperature=2, max_tokens=400, **fields).json()["choices"][0]
        text = reply["message"]["content"]
        if reply["finish_reason"] == "stop":
            assert re.fullmatch(pattern, text), text


def test_a_streamed_answer_and_all_of_n_follow_it(server: Served) -> None:
    form: dict[str, Any] = {"structured_outputs": {"choice": ["left", "right"]}, "n": 4}
    replies = server.chat(**form).json()["choices"]
    assert {reply["message"]["content"] for reply in replies} <= {"left", "right"}
    text = server.chat(**form, stream=True).text
    events = [json.loads(e[6:]) for e in text.split("\n\n") if e.startswith("data: {")]
    texts = [""] * 4
    for event in events:
        (choice,) = event["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert set(texts) <= {"left", "right"}


def test_a_form_holds_in_completions_and_beside_others(server: Served) -> None:
    prompts = ["A Pod", "A Node"]
    form = {"structured_outputs": {"regex": "[0-9]{3}"}}
    reply = server.complete(prompts, temperature=1, logprobs=1, max_tokens=9, **form).json()
    for choice in reply["choices"]:
        assert re.fullmatch("[0-9]{3}", choice["text"])


def test_the_openai_client_parses_what_it_asked_for(client: openai.OpenAI) -> None:
    class Workload(BaseModel):
        name: str
        replicas: int

    reply = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "What is a Pod?"}],
        response_format=Workload,
        temperature=0,
        max_tokens=300,
        extra_body={"logit_bias": {}},
    )
    parsed = reply.choices[0].message.parsed
    assert isinstance(parsed, Workload)


@pytest.mark.parametrize(
    ("fields", "param", "word"),
    [
        ({"response_format": {"type": "yaml"}}, "response_format.type", "yaml"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "missing",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
            "missing",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}},
            "response_format.json_schema",
            "Invalid type: x",
        ),
        (
            {"structured_outputs": {"regex": "("}},
            "structured_outputs.regex",
            "'structured_outputs.regex' is not valid: the regular expression '(' is not valid: "
            "unclosed group.",
        ),
        ({"structured_outputs": {"regex": "a" * 70_000}}, "structured_outputs.regex", "bytes"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "1 to 1024 items"),
        ({"structured_outputs": {"choice": [""]}}, "structured_outputs.choice", "empty"),
        (
            {"structured_outputs": {"grammar": "start: A\nA: x"}},
            "structured_outputs.grammar",
            "'structured_outputs.grammar' is not valid: at 2(4): unknown name",
        ),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs", "structural_tag"),
        (
            {"structured_outputs": {"json": {"$ref": "http://169.254.169.254/"}}},
            "structured_outputs.json",
            "nothing is fetched",
        ),
        (
            {"structured_outputs": {"regex": "a", "choice": ["a"]}},
            "structured_outputs.choice",
            "expected one",
        ),
        (
            {"response_format": {"type": "json_object"}, "guided_regex": "a"},
            "guided_regex",
            "expected one",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_form_that_cannot_be_is_refused_by_name(
    server: Served, fields: dict[str, Any], param: str, word: str
) -> None:
    response = server.chat(max_tokens=1, **fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert word in error["message"]


def structured(server: Served, address: str, form: dict[str, Any]) -> httpx.Response:
    """Asked for from an address of its own: callers are told apart by it."""
    with httpx.Client(transport=httpx.HTTPTransport(local_address=address), timeout=60) as client:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "hi"}],
            "structured_outputs": form,
        }
        return client.post(f"{server.url}/v1/chat/completions", json=body)


def test_a_grammar_that_explodes_is_refused_and_delays_nobody(server: Served) -> None:
    """Its automaton has ten million states; only the process that checks it is busy."""
    forms = [{"json": {"type": "integer", "multipleOf": 10_000_019 + n}} for n in range(2)]
    with ThreadPoolExecutor() as threads:
        exploding = [threads.submit(structured, server, "127.0.0.2", form) for form in forms]
        time.sleep(0.3)
        started_s = time.monotonic()
        for word in ("ok", "fine", "good"):
            assert structured(server, "127.0.0.3", {"choice": [word]}).status_code == 200
        assert time.monotonic() - started_s < 1.5  # half a second for each new grammar
        assert not any(each.done() for each in exploding)
        for each in exploding:
            assert "did not finish within" in each.result().json()["error"]["message"]
    started_s = time.monotonic()
    assert structured(server, "127.0.0.4", forms[0]).status_code == 400
    assert time.monotonic() - started_s < 1.0  # it is known by now
    wait_for(lambda: server.state().running == 0)


def compilers(server: Served) -> list[int]:
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if "grammar_worker" in Path(f"/proc/{child}/cmdline").read_text()
    ]


def test_a_compiler_that_dies_is_not_the_clients_mistake(server: Served) -> None:
    form = {"json": {"type": "integer", "multipleOf": 10_000_103}}
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(structured, server, "127.0.0.5", form)
        while not asked.done():
            time.sleep(1.0)
            for pid in compilers(server):
                os.kill(pid, signal.SIGKILL)
    answer = asked.result()
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert "died" in answer.json()["error"]["message"]
    again = structured(server, "127.0.0.5", form)  # it is looked at anew
    assert "did not finish within" in again.json()["error"]["message"]
