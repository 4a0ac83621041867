"""The process that runs the model's chat template: `python -m aweigh_runtime.text.template_worker`.

A template is a program that came with the model. The sandbox keeps it from Python's internals; the
process bounds what a sandbox cannot: memory here, time in the parent, which kills it when late.
"""

import json
import resource
import traceback
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
from jinja2 import TemplateError, nodes
from jinja2.environment import Template
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from aweigh_runtime.child import channel_to_parent
from aweigh_runtime.text.template_messages import (
    Broken,
    Compile,
    Compiled,
    Refused,
    Render,
    Rendered,
)
from aweigh_runtime.wire import Channel

MEMORY_BYTES = 512 << 20
MAX_PROMPT_CHARACTERS = 16 << 20


class RaisedByTemplate(Exception):
    """The template called raise_exception, its way to refuse a chat."""


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's text for training; here it means nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def main() -> None:
    """Answer the parent until it closes its end."""
    channel = channel_to_parent()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        _work(channel)
    except EOFError:
        return


def _work(channel: Channel) -> None:
    order = msgspec.msgpack.decode(channel.receive(), type=Compile)
    templates: Templates | None = None

    def compile_templates() -> Compiled:
        nonlocal templates
        templates = Templates(order)
        return Compiled(templates.know_tools)

    channel.send(_answer(compile_templates))
    while templates is not None:
        render = msgspec.msgpack.decode(channel.receive(), type=Render)
        channel.send(_answer(partial(templates.render, render)))


class Templates:
    """The model's template, or both where chats with tools have one of their own."""

    def __init__(self, order: Compile) -> None:
        environment = _environment()
        sources = [order.template, order.tool_template or order.template]
        self._plain, self._with_tools = (
            environment.from_string(source, globals=_globals(order.variables)) for source in sources
        )
        names = environment.parse(sources[1]).find_all(nodes.Name)
        self.know_tools = any(name.name == "tools" for name in names)

    def render(self, order: Render) -> Rendered:
        """The prompt of one chat."""
        tools_take_part = order.tools or any(turn["role"] == "tool" for turn in order.messages)
        template = self._with_tools if tools_take_part else self._plain
        return Rendered(_render(template, order))


def _answer(make: Callable[[], Compiled | Rendered]) -> Compiled | Rendered | Refused | Broken:
    try:
        return make()
    except RaisedByTemplate as error:
        return Refused(str(error)[:1000])
    except MemoryError:
        return Refused(f"it needs more than {MEMORY_BYTES >> 20} MiB of memory")
    except Exception as error:  # a template can raise whatever Python can
        text = error.message if isinstance(error, TemplateError) else str(error)
        return Broken(type(error).__name__, (text or "")[:1000], _line(error))


def _line(error: Exception) -> int | None:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == "<template>"]
    return lines[-1] if lines else None


def _render(template: Template, order: Render) -> str:
    parts, length = [], 0
    ours = {"messages": order.messages, "tools": order.tools, "add_generation_prompt": True}
    for part in template.generate({**order.settings, **ours}):
        length += len(part)
        if length > MAX_PROMPT_CHARACTERS:
            raise RaisedByTemplate(f"the prompt exceeds {MAX_PROMPT_CHARACTERS} characters")
        parts.append(part)
    return "".join(parts)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
    )
    environment.filters["tojson"] = _to_json
    return environment


def _globals(variables: dict[str, str]) -> dict[str, Any]:
    return {
        **variables,
        "raise_exception": _raise_exception,
        "strftime_now": lambda format: datetime.now().strftime(format),
    }


def _to_json(  # the parameters that published templates use
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise RaisedByTemplate(message)


if __name__ == "__main__":
    main()
