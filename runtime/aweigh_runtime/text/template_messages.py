"""What the server and the process that renders chat templates say to each other."""

from typing import Any

import msgspec


class Compile(msgspec.Struct, frozen=True, tag=True):
    """The first message: the template and what it may refer to, such as bos_token."""

    template: str
    tool_template: str | None  # instead of the other where tools take part
    variables: dict[str, str]


class Render(msgspec.Struct, frozen=True, tag=True):
    """Each further one: a chat."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    settings: dict[str, Any]  # variables of the client's


class Compiled(msgspec.Struct, frozen=True, tag=True):
    """The answer to Compile."""

    knows_tools: bool  # the template shows them to the model


class Rendered(msgspec.Struct, frozen=True, tag=True):
    """The prompt."""

    text: str


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Why there is no prompt, in words for the client: the template's own or fixed ones."""

    reason: str


class Broken(msgspec.Struct, frozen=True, tag=True):
    """The template failed. The words are Python's; while rendering they may quote the chat."""

    kind: str
    message: str
    line: int | None  # of the template, if it got as far as running
