"""Templates run in a real worker process."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from aweigh_runtime.failures import ModelUnreadable
from aweigh_runtime.text import template
from aweigh_runtime.text.template import CannotRender, ChatTemplate, find_template
from aweigh_runtime.text.template_messages import Compile
from aweigh_runtime.text.worker import Died
from tests.runtime.text.helmsman import DIRECTORY

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "ahoy"}]
Make = Callable[[str], ChatTemplate]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[ChatTemplate] = []

    def remember(source: str) -> ChatTemplate:
        made.append(ChatTemplate(Compile(source, None, {"bos_token": "<s>"})))
        return made[-1]

    yield remember
    for each in made:
        await each.close()


async def test_the_builtin_template_renders_a_chat() -> None:
    found = find_template(DIRECTORY)
    assert found is not None
    await found.compile()
    assert await found.render(MESSAGES) == "<|user|>ahoy<|end|><|assistant|>"
    await found.close()


@pytest.mark.parametrize(
    ("source", "prompt"),
    [
        pytest.param("{{ bos_token }}{{ messages[0].content }}", "<s>ahoy", id="tokens"),
        pytest.param(
            "{{ messages[0] | tojson }}", '{"role": "user", "content": "ahoy"}', id="json"
        ),
        pytest.param("{{ strftime_now('%Y') | length }}", "4", id="time"),
        pytest.param(
            "{% for m in messages %}{% if loop.first %}{% break %}{% endif %}{% endfor %}x",
            "x",
            id="loop controls",
        ),
        pytest.param("{% generation %}x{% endgeneration %}", "x", id="generation tag"),
        pytest.param("{% if true %}\n  a\n{% endif %}\n", "  a\n", id="trimmed blocks"),
        pytest.param("{% if add_generation_prompt %}go{% endif %}", "go", id="generation prompt"),
    ],
)
async def test_templates_have_what_published_ones_use(make: Make, source: str, prompt: str) -> None:
    assert await make(source).render(MESSAGES) == prompt


async def test_a_template_can_refuse_a_chat_in_its_own_words(make: Make) -> None:
    chat = make("{% if messages | length > 1 %}{{ raise_exception('one at a time') }}{% endif %}ok")
    with pytest.raises(CannotRender, match="one at a time"):
        await chat.render(MESSAGES * 2)
    assert await chat.render(MESSAGES) == "ok"


async def test_what_python_says_about_a_chat_stays_within(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    chat = make("first\n{{ {}[messages[0].content] + 1 }}\n{{ 1 // (messages | length - 1) }}")
    with caplog.at_level("WARNING", "aweigh"), pytest.raises(CannotRender) as caught:
        await chat.render([{"role": "user", "content": "a secret"}])
    assert str(caught.value) == "it failed on them; the server's log says where"
    (record,) = caplog.records
    assert getattr(record, "fields") == {"error": "UndefinedError", "line": 2}  # noqa: B009
    assert "secret" not in caplog.text


async def test_the_template_process_inherits_no_token(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    before = children()
    await make("x").compile()
    (pid,) = children() - before
    environment = environment_of(pid)
    assert "hf_secret" not in environment
    assert "TZ=Asia/Tokyo" in environment


def environment_of(pid: int) -> str:
    return Path(f"/proc/{pid}/environ").read_text()


def children() -> set[int]:
    pid = os.getpid()
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("{{ ''.__class__.__mro__[1].__subclasses__() }}", id="class of a string"),
        pytest.param("{{ raise_exception.__globals__['json'] }}", id="globals of a function"),
        pytest.param("{{ cycler.__init__.__globals__.os.system('id') }}", id="cycler"),
        pytest.param("{{ messages.append(1) }}", id="changing the messages"),
        pytest.param("{% include '/etc/passwd' %}", id="reading a file"),
        pytest.param("{{ range(10**9) | list }}", id="a huge range"),
        pytest.param("{{ 'x' * 10**10 }}", id="a huge string"),
        pytest.param("{{ 'x' | center(10**10) }}", id="a huge string by a filter"),
        pytest.param("{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}", id="a huge prompt"),
        pytest.param("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", id="endless recursion"),
    ],
)
async def test_a_booby_trapped_template_gets_nowhere(make: Make, source: str) -> None:
    chat = make("{% if messages[0].content == 'trap' %}" + source + "{% endif %}safe")
    with pytest.raises(CannotRender):
        await chat.render([{"role": "user", "content": "trap"}])
    assert await chat.render(MESSAGES) == "safe"


async def test_a_client_that_goes_away_leaves_the_worker_to_the_others(make: Make) -> None:
    """Its answer comes all the same, and is nobody else's."""
    template = make(
        "{% for a in range(2000) %}{% for b in range(1000) %}{% endfor %}{% endfor %}"
        "{{ messages[0].content }}"
    )
    await template.compile()
    worker = template._worker._child
    gone = asyncio.ensure_future(template.render([{"role": "user", "content": "gone"}]))
    await asyncio.sleep(0.02)
    gone.cancel()
    assert await template.render(MESSAGES) == "ahoy"
    assert gone.cancelled()
    assert template._worker._child is worker


async def test_a_worker_that_dies_while_it_renders_is_not_told_as_the_chats_fault(
    make: Make,
) -> None:
    made = make("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
    await made.compile()
    asked = asyncio.ensure_future(made.render(MESSAGES))
    for _ in range(2):  # it may have died before: the question is asked once more
        await asyncio.sleep(1)
        child = made._worker._child
        assert child is not None
        child.process.kill()
    with pytest.raises(Died):
        await asked


async def test_a_worker_that_died_while_nobody_asked_is_no_askers_fault(make: Make) -> None:
    template = make("{{ messages[0].content }}")
    await template.compile()
    assert template._worker._child is not None
    template._worker._child.process.kill()
    await template._worker._child.process.wait()
    assert await template.render(MESSAGES) == "ahoy"


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set n = 6 + messages | length %}{{ n ** (n ** (n ** n)) }}",
    ],
    ids=["an endless loop", "an endless computation"],
)
async def test_a_template_that_does_not_end_is_killed(
    make: Make, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template, "RENDER_DEADLINE_S", 0.5)
    chat = make("{% if messages[0].content == 'trap' %}" + source + "{% endif %}safe")
    assert await chat.render(MESSAGES) == "safe"
    started_s = time.monotonic()
    with pytest.raises(CannotRender, match=r"did not finish within 0\.5 s"):
        await chat.render([{"role": "user", "content": "trap"}])
    assert time.monotonic() - started_s < 5
    assert await chat.render(MESSAGES) == "safe"


async def test_a_template_with_a_mistake_stops_the_start(make: Make) -> None:
    with pytest.raises(ModelUnreadable, match=r"chat template cannot be used: TemplateSyntaxError"):
        await make("{% if %}").compile()


@pytest.mark.parametrize(
    ("config", "prompt"),
    [
        ('{"chat_template": "a"}', "a"),
        (
            '{"chat_template": [{"name": "x", "template": "x"}, '
            '{"name": "default", "template": "b"}]}',
            "b",
        ),
        ('{"chat_template": "{{ eos_token }}", "eos_token": {"content": "</s>"}}', "</s>"),
    ],
    ids=["one template", "named templates", "tokens as objects"],
)
async def test_the_template_is_found_in_the_tokenizer_config(
    tmp_path: Path, config: str, prompt: str
) -> None:
    (tmp_path / "tokenizer_config.json").write_text(config)
    found = find_template(tmp_path)
    assert found is not None
    assert await found.render(MESSAGES) == prompt
    await found.close()


async def test_a_template_file_comes_first(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "a"}')
    (tmp_path / "chat_template.jinja").write_text("file")
    found = find_template(tmp_path)
    assert found is not None
    assert await found.render(MESSAGES) == "file"
    await found.close()


def test_a_model_without_a_template_has_none(tmp_path: Path) -> None:
    assert find_template(tmp_path) is None
