"""The model's chat template: finds it, and has it rendered by a process that can be killed."""

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import msgspec

from aweigh_runtime import wire
from aweigh_runtime.child import Child
from aweigh_runtime.failures import ModelUnreadable
from aweigh_runtime.text.defaults import token_text, tokenizer_config
from aweigh_runtime.text.template_messages import Broken, Compile, Refused, Render, Rendered

RENDER_DEADLINE_S = 5.0
START_DEADLINE_S = 30.0
_WORKER = "aweigh_runtime.text.template_worker"
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
_MAX_TEMPLATE_BYTES = 1 << 20
# What Python and strftime need. The rest, such as tokens, is none of the template's business.
_ENVIRONMENT = ("PATH", "PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")

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
        self._order = order
        self._child: Child | None = None
        self._turn = asyncio.Lock()  # the worker answers one question at a time

    async def compile(self) -> None:
        """Start the worker.

        Raises:
            ModelUnreadable: the template has an error.
        """
        try:
            async with self._turn:
                await self._start()
        except (CannotRender, _Broken) as error:
            raise ModelUnreadable(f"the model's chat template cannot be used: {error}") from error

    async def render(self, messages: list[dict[str, Any]]) -> str:
        """The prompt of a chat, ending where the assistant's answer begins.

        Raises:
            CannotRender: with the reason.
        """
        try:
            async with self._turn:
                child = self._child or await self._start()
                return await self._ask(child, Render(messages), RENDER_DEADLINE_S)
        except _Broken as error:  # its words may quote the chat: neither clients nor the log get it
            fields = {"error": error.broken.kind, "line": error.broken.line}
            _log.warning("the chat template failed", extra={"fields": fields})
            raise CannotRender("it failed on them; the server's log says where") from error

    async def close(self) -> None:
        """End the worker."""
        if self._child is not None:
            child, self._child = self._child, None
            await child.kill()

    async def _start(self) -> Child:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        self._child = await Child.start(_WORKER, environment)
        await self._ask(self._child, self._order, START_DEADLINE_S)
        return self._child

    async def _ask(self, child: Child, question: msgspec.Struct, deadline_s: float) -> str:
        answered = False
        try:
            child.send(question)
            body = await asyncio.wait_for(wire.read_frame(child.reader), deadline_s)
            answered = True
        except TimeoutError as error:
            raise CannotRender(f"it did not finish within {deadline_s:g} s") from error
        except EOFError as error:
            raise CannotRender("its process died, probably for want of memory") from error
        finally:  # also when the client has gone: the answer would be taken for the next one's
            if not answered:
                await self.close()
        answer = msgspec.msgpack.decode(body, type=Rendered | Refused | Broken)
        if isinstance(answer, Broken):
            raise _Broken(answer)
        if isinstance(answer, Refused):
            raise CannotRender(answer.reason)
        return answer.text


def find_template(directory: Path) -> ChatTemplate | None:
    """The model's template; None when it has none, as models that only continue text.

    Raises:
        ModelUnreadable: a file is broken.
    """
    config = tokenizer_config(directory)
    source = _from_file(directory / "chat_template.jinja") or _from_config(config)
    if source is None:
        return None
    named = {name: token_text(config.get(name)) for name in _NAMED_TOKENS}
    variables = {name: text for name, text in named.items() if text is not None}
    return ChatTemplate(Compile(source, variables))


def _from_file(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _MAX_TEMPLATE_BYTES:
            raise ModelUnreadable(f"{path} has more than {_MAX_TEMPLATE_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ModelUnreadable(f"{path} cannot be read: {error}") from error


def _from_config(config: dict[str, Any]) -> str | None:
    """One template, or several with names, of which `default` is for plain chats."""
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {
            item.get("name"): item.get("template") for item in template if isinstance(item, dict)
        }
        template = named.get("default")
    return template if isinstance(template, str) else None
