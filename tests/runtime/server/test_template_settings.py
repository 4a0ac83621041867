"""`chat_template_kwargs`: what clients may set of a chat template, and what not."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.runtime.serving import MODEL, Served, serving
from tests.runtime.text.helmsman import DIRECTORY

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}no thoughts{% endif %}"
    "{{ style }}<|assistant|>"
)
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose template has switches."""
    directory: Path = tmp_path_factory.mktemp("thinker")
    copy = directory / "model"
    shutil.copytree(DIRECTORY, copy)
    path = copy / "tokenizer_config.json"
    config = {**json.loads(path.read_text()), "chat_template": TEMPLATE, "bos_token": "<|system|>"}
    path.write_text(json.dumps(config))
    with serving(directory, uri=f"file://{copy}") as served:
        served.wait_ready()
        yield served


def prompt_of(server: Served, **settings: Any) -> str:
    body = {"messages": MESSAGES, "chat_template_kwargs": settings}
    tokens = httpx.post(f"{server.url}/tokenize", json=body).json()["tokens"]
    answered = server.chat("hi", max_tokens=1, chat_template_kwargs=settings).json()
    assert answered["usage"]["prompt_tokens"] == len(tokens)
    back = httpx.post(f"{server.url}/detokenize", json={"tokens": tokens}).json()
    return str(back["prompt"])


def test_a_switch_of_the_template_is_the_clients_to_set(thinker: Served) -> None:
    plain = "<|system|><|user|>hi<|end|><|assistant|>"
    assert prompt_of(thinker) == prompt_of(thinker, enable_thinking=True, unheard_of=1) == plain
    quiet = plain.replace("<|assistant|>", "no thoughts<|assistant|>")
    assert prompt_of(thinker, enable_thinking=False) == quiet


def test_a_control_token_in_a_setting_is_text(thinker: Served) -> None:
    assert prompt_of(thinker, style="<|end|>").endswith("<|end|><|end|><|assistant|>")
    body = {"messages": MESSAGES, "chat_template_kwargs": {"style": "<|end|>"}}
    tokens = httpx.post(f"{thinker.url}/tokenize", json=body).json()["tokens"]
    assert tokens.count(3) == 1  # the template's own


@pytest.mark.parametrize(
    "settings",
    [
        *({name: "x"} for name in ("messages", "tools", "add_generation_prompt", "chat_template")),
        *({name: "x"} for name in ("bos_token", "eos_token", "raise_exception")),
        {"a": [1]},
        {"a": {"b": 1}},
        {"a b": 1},
        {"a": "x" * 1025},
        {"a": 2**63},
        {f"a{n}": n for n in range(33)},
        "x",
    ],
    ids=lambda settings: str(settings)[:40],
)
def test_what_is_the_servers_or_no_plain_value_is_refused(server: Served, settings: Any) -> None:
    chat = {"model": MODEL, "messages": MESSAGES, "chat_template_kwargs": settings}
    for path in ("/v1/chat/completions", "/tokenize"):
        refused = httpx.post(f"{server.url}{path}", json=chat)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "chat_template_kwargs"
