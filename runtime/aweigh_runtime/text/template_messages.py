"""What the server and the process that renders chat templates say to each other."""

from typing import Any

import msgspec


class Compile(msgspec.Struct, frozen=True, tag=True):
    """The first message: the template and what it may refer to, such as bos_token."""

    template: str
    variables: dict[str, str]


class Render(msgspec.Struct, frozen=True, tag=True):
    """Each further one: a chat."""

    messages: list[dict[str, Any]]


class Rendered(msgspec.Struct, frozen=True, tag=True):
    """The prompt; empty as the answer to Compile."""

    text: str


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Why there is no prompt."""

    reason: str
