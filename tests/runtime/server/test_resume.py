"""Streams that another server goes on with: the client gets what it would have got from one."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aweigh_api.routing import RESUME_FIELD, SECRET_HEADER, TOKENS_COMMENT
from tests.runtime.server.local import secret
from tests.runtime.serving import MODEL, Served, serving
from tests.runtime.text.helmsman import BACKEND

(A,) = BACKEND.encode("A", add_special_tokens=False).ids
SHOWN = "what-the-router-shows"
LOOK_UP: dict[str, Any] = {
    "type": "object",
    "properties": {"kind": {"enum": ["Pod", "Node"]}, "depth": {"type": "integer"}},
    "required": ["kind", "depth"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": LOOK_UP}}
QUESTION = [{"role": "user", "content": "What is a Pod?"}]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Served]]:
    """Two pods of a service; one of them guesses tokens ahead, which changes no answer."""
    plain, guessing = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("guessing")
    flags = (
        f"--router-secret-dir={secret(plain / 'router', secret=SHOWN)}",
        *("--exact", "--dtype=fp32", "--max-running=16"),
    )
    with (
        serving(plain, *flags) as one,
        serving(guessing, *flags, "--speculation=ngram") as other,
    ):
        one.wait_ready()
        other.wait_ready()
        yield one, other


@dataclass
class Event:
    """One event of a stream, and the tokens that the comments before it name."""

    data: Any  # None: the last one
    tokens: list[tuple[int, list[int]]]

    @classmethod
    def read(cls, block: str) -> "Event":
        *comments, data = block.split("\n")
        tokens = []
        for comment in comments:
            choice, ids = comment.removeprefix(TOKENS_COMMENT).split(" ")
            tokens.append((int(choice), [int(id) for id in ids.split(",")]))
        text = data.removeprefix("data: ")
        return cls(None if text == "[DONE]" else json.loads(text), tokens)


@dataclass
class Answer:
    """What the events of one choice come to."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    role: str = ""
    calls: dict[int, list[str]] = field(default_factory=dict)  # names, arguments
    logprobs: list[Any] = field(default_factory=list)
    finish: list[str] = field(default_factory=list)

    def take(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta", {"content": choice.get("text")})
        self.text += delta.get("content") or ""
        self.role += delta.get("role", "")
        for call in delta.get("tool_calls", []):
            known = self.calls.setdefault(call["index"], ["", ""])
            known[0] += call["function"].get("name", "")
            known[1] += call["function"].get("arguments", "")
        listed = choice["logprobs"] or {}
        self.logprobs += listed.get("content") or zip(
            *(listed.get(name, []) for name in ("tokens", "token_logprobs", "text_offset")),
            strict=True,
        )
        if choice["finish_reason"] is not None:
            self.finish.append(choice["finish_reason"])


def ask(server: Served, path: str, body: dict[str, Any]) -> httpx.Response:
    url = f"{server.url}/v1/{path}"
    return httpx.post(url, json=body, headers={SECRET_HEADER: SHOWN}, timeout=120)


def events(server: Served, path: str, body: dict[str, Any]) -> list[Event]:
    response = ask(server, path, body)
    assert response.status_code == 200, response.text
    return [Event.read(block) for block in response.text.split("\n\n")[:-1]]


def answers(stream: list[Event], count: int) -> list[Answer]:
    found = [Answer() for _ in range(count)]
    for event in stream:
        for choice, ids in event.tokens:
            found[choice].tokens += ids
        for choice in [] if event.data is None else event.data["choices"]:
            found[choice["index"]].take(choice)
    return found


def usage(stream: list[Event]) -> dict[str, Any] | None:
    """Of its last event that has one; what the cache has saved differs between servers."""
    found = [e.data["usage"] for e in stream if e.data is not None and e.data.get("usage")]
    return {**found[-1], "prompt_tokens_details": None} if found else None


def resume(stream: list[Event], count: int) -> dict[str, Any]:
    """What a router knows of a stream whose server has died."""
    first = stream[0].data
    known = [
        {"tokens": answer.tokens, "finished": bool(answer.finish)}
        for answer in answers(stream, count)
    ]
    return {"id": first["id"], "created": first["created"], "answers": known}


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    body: dict[str, Any] = {"model": MODEL, "stream": True}
    body |= draw(
        st.fixed_dictionaries(
            {"max_tokens": st.integers(1, 40)},
            optional={
                "n": st.integers(1, 3),
                "stop": st.lists(
                    st.sampled_from(["e", " the", "s a", "\n", "Pod", "aab"]), max_size=4
                ),
                "include_stop_str_in_output": st.booleans(),
                "ignore_eos": st.booleans(),
                "skip_special_tokens": st.booleans(),
                "presence_penalty": st.sampled_from([-1.0, 1.0]),
                "frequency_penalty": st.sampled_from([-0.5, 1.5]),
                "repetition_penalty": st.sampled_from([0.8, 1.4]),
                "logit_bias": st.just(
                    {"3": 2.0, "100": 5.0, "200": 6.0}
                ),  # ends, halves of letters
                "stream_options": st.just({"include_usage": True}),
            },
        )
    )
    body |= draw(
        st.sampled_from([{"temperature": 0}, {"seed": 7}, {"seed": 8, "temperature": 1.6}])
    )
    body["min_tokens"] = draw(st.integers(0, body["max_tokens"]))
    if draw(st.booleans()):
        prompts = ["A Pod", ["A Node is", "Services of"], "{"]
        body |= {"prompt": draw(st.sampled_from(prompts))}
        return "completions", body | draw(st.sampled_from([{}, {"logprobs": 2}, *FORMS]))
    body |= {"messages": QUESTION}
    body |= draw(st.sampled_from([{}, {"logprobs": True, "top_logprobs": 1}]))
    return "chat/completions", body | draw(st.sampled_from([{}, *FORMS, *CALLS]))


FORMS: list[dict[str, Any]] = [
    {"structured_outputs": {"regex": "(Pod|Node)s? (are|is) [a-z ]{3,40}\\."}},
    {"structured_outputs": {"json": LOOK_UP}},
]
CALLS: list[dict[str, Any]] = [
    {"tools": [TOOL], "tool_choice": "required"},
    {"tools": [TOOL], "tool_choice": "required", "max_tokens": 120, "min_tokens": 0, "stop": []},
    {"tools": [TOOL], "tool_choice": "auto"},
]


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(asked=requests(), cuts=st.lists(st.floats(0, 1), min_size=2, max_size=2), swap=st.booleans())
def test_a_stream_that_was_cut_anywhere_is_the_undisturbed_one(
    servers: tuple[Served, Served],
    asked: tuple[str, dict[str, Any]],
    cuts: list[float],
    swap: bool,
) -> None:
    path, body = asked
    one, other = reversed(servers) if swap else servers
    whole = events(one, path, body)
    prompts = body.get("prompt")
    count = body.get("n", 1) * (len(prompts) if isinstance(prompts, list) else 1)
    for cut in cuts:
        seen = whole[: 1 + round(cut * (len(whole) - 2))]
        rest = events(other, path, {**body, RESUME_FIELD: resume(seen, count)})
        joined = [*seen, *rest]
        assert answers(joined, count) == answers(whole, count)
        assert usage(joined) == usage(whole)
        assert joined[-1].data is None
        heads = {(e.data["id"], e.data["created"]) for e in joined if e.data is not None}
        assert len(heads) == 1


def test_an_answer_that_was_complete_ends_at_once(servers: tuple[Served, Served]) -> None:
    body = {
        "model": MODEL,
        "prompt": "A Pod",
        "stream": True,
        "max_tokens": 6,
        "temperature": 0,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }
    whole = events(servers[0], "completions", body)
    *seen, ending, _, _ = whole
    assert ending.data["choices"][0]["finish_reason"] == "length"
    computed = servers[1].state().generated_tokens
    for complete in (seen, [*seen, ending]):
        rest = events(servers[1], "completions", {**body, RESUME_FIELD: resume(complete, 1)})
        assert answers([*complete, *rest], 1) == answers(whole, 1)
        assert usage(rest) == usage(whole)
    assert servers[1].state().generated_tokens == computed


@pytest.mark.parametrize(
    ("given", "fields", "message"),
    [
        ([{"tokens": [5]}, {"tokens": []}], {}, "has 2 items; expected 1"),
        ([{"tokens": [5, 8192]}], {}, "token id 8192; expected 0 to 8191"),
        ([{"tokens": [-1]}], {}, "token id -1"),
        ([{"tokens": [5] * 9}], {}, "has 9 tokens; expected at most the 8"),
        ([{"tokens": [5, 3, 5]}], {}, "goes on after the answer's end"),
        ([{"tokens": [A, A]}], {"stop": "A"}, "goes on after the answer's end"),
        ([{"tokens": ["a"]}], {}, "answers[0].tokens[0]' is not valid"),
        ([{"text": "a"}], {}, "answers[0].tokens' is not valid"),
        ([{"tokens": []}], {"stream": False}, "needs 'stream': true"),
        ([{"tokens": []}], {"echo": True}, "cannot go on with an 'echo'"),
        ([{"tokens": []}], {"prompt_logprobs": 1}, "'prompt_logprobs' cannot be streamed"),
    ],
)
def test_what_cannot_go_on_is_refused_by_its_name(
    servers: tuple[Served, Served], given: Any, fields: dict[str, Any], message: str
) -> None:
    wanted = {"id": "cmpl-1", "created": 1, "answers": given}
    body = {"model": MODEL, "prompt": "A Pod", "max_tokens": 8, "stream": True, **fields}
    refused = ask(servers[0], "completions", {**body, RESUME_FIELD: wanted})
    assert refused.status_code == 400
    assert message in refused.json()["error"]["message"]
