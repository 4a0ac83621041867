"""The model's chat template: finds it, and has it rendered by a process that can be killed."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from aweigh_runtime.failures import ModelUnreadable
from aweigh_runtime.text.defaults import token_text, tokenizer_config
from aweigh_runtime.text.template_messages import (
    Broken,
    Compile,
    Compiled,
    Refused,
    Render,
    Rendered,
)
from aweigh_runtime.text.worker import Died, NoAnswer, Worker

RENDER_DEADLINE_S = 5.0
_WORKER = "aweigh_runtime.text.template_worker"
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
# Variables that are the server's or the model's; no client may set them.
RESERVED = frozenset(
    {
        *("messages", "tools", "add_generation_prompt", "chat_template"),
        *("raise_exception", "strftime_now"),
        *_NAMED_TOKENS,
    }
)
_MAX_TEMPLATE_BYTES = 1 << 20

_log = logging.getLogger("aweigh.template")


class CannotRender(ValueError):
    """The template refuses these messages, fails on them, or takes too long."""


class _Broken(Exception):
    def __init__(self, broken: Broken) -> None:
        super().__init__(f"{broken.kind}: {broken.message}")
        self.broken = broken


class ChatTemplate:
    """Turns messages into a prompt."""

    def __init__(self, order: Compile) -> None:
        self.source = order.tool_template or order.template  # what says how calls are written
        self.knows_tools = False  # known once it is compiled
        self._worker = Worker(_WORKER, order)

    async def compile(self) -> None:
        """Start the worker.

        Raises:
            ModelUnreadable: the template has an error.
        """
        try:
            compiled = _answer(await self._worker.start())
        except (CannotRender, NoAnswer, _Broken) as error:
            raise ModelUnreadable(f"the model's chat template cannot be used: {error}") from error
        self.knows_tools = isinstance(compiled, Compiled) and compiled.knows_tools

    async def render(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt of a chat, ending where the assistant's answer begins.

        Args:
            messages: its turns.
            tools: what the assistant may call.
            settings: further variables of the template, such as enable_thinking; none RESERVED.

        Raises:
            CannotRender: with the reason.
            Died: the process that renders was lost.
        """
        order = Render(messages, tools, dict(settings or {}))
        try:
            answer = _answer(await self._worker.ask(order, RENDER_DEADLINE_S))
        except Died:
            raise
        except NoAnswer as error:
            raise CannotRender(str(error)) from error
        except _Broken as error:  # its words may quote the chat: neither clients nor the log get it
            fields = {"error": error.broken.kind, "line": error.broken.line}
            _log.warning("the chat template failed", extra={"fields": fields})
            raise CannotRender("it failed on them; the server's log says where") from error
        assert isinstance(answer, Rendered)
        return answer.text

    async def close(self) -> None:
        """End the worker."""
        await self._worker.close()


def _answer(body: bytes) -> Compiled | Rendered:
    answer = msgspec.msgpack.decode(body, type=Compiled | Rendered | Refused | Broken)
    if isinstance(answer, Broken):
        raise _Broken(answer)
    if isinstance(answer, Refused):
        raise CannotRender(answer.reason)
    return answer


def find_template(directory: Path) -> ChatTemplate | None:
    """The model's template; None when it has none, as models that only continue text.

    Raises:
        ModelUnreadable: a file is broken.
    """
    config = tokenizer_config(directory)
    named_templates = _from_config(config)
    source = _from_file(directory / "chat_template.jinja") or named_templates.get("default")
    if source is None:
        return None
    named = {name: token_text(config.get(name)) for name in _NAMED_TOKENS}
    variables = {name: text for name, text in named.items() if text is not None}
    return ChatTemplate(Compile(source, named_templates.get("tool_use"), variables))


def _from_file(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _MAX_TEMPLATE_BYTES:
            raise ModelUnreadable(f"{path} has more than {_MAX_TEMPLATE_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ModelUnreadable(f"{path} cannot be read: {error}") from error


def _from_config(config: dict[str, Any]) -> dict[str, str]:
    """Templates by their names: `default`, and often `tool_use`."""
    template = config.get("chat_template")
    if not isinstance(template, list):
        template = [{"name": "default", "template": template}]
    named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
    return {
        name: text
        for name, text in named.items()
        if isinstance(name, str) and isinstance(text, str)
    }
