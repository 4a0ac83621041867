"""The messages of a chat, as chat templates know them."""

from collections.abc import Sequence
from typing import Any

from aweigh_http.errors import ApiError
from aweigh_runtime.server.errors import invalid
from aweigh_runtime.server.openai.requests import Message, TextPart
from aweigh_runtime.server.openai.tools import past_call
from aweigh_runtime.text.tools.formats import Format

ROLES = ("system", "developer", "user", "assistant", "tool")


def turns_of(messages: Sequence[Message], format: Format) -> list[dict[str, Any]]:
    """Every message, with its content as one text.

    Raises:
        ApiError: with the place of what is wrong.
    """
    return [_turn(f"messages[{i}]", message, format) for i, message in enumerate(messages)]


def _turn(where: str, message: Message, format: Format) -> dict[str, Any]:
    if message.role not in ROLES:
        raise invalid(
            f"'{where}.role' is not supported; expected one of {', '.join(ROLES)}.", f"{where}.role"
        )
    turn: dict[str, Any] = {"role": message.role, "content": _content(where, message)}
    if message.name is not None:
        turn["name"] = message.name
    if message.role == "tool":
        turn["tool_call_id"] = _answered_call(where, message, format)
    if message.tool_calls:
        if message.role != "assistant":
            raise invalid(
                f"'{where}.tool_calls' is not valid: only the assistant calls tools.",
                f"{where}.tool_calls",
            )
        turn["tool_calls"] = [past_call(call, format) for call in message.tool_calls]
    return turn


def _answered_call(where: str, message: Message, format: Format) -> str:
    if message.tool_call_id is None:
        raise invalid(f"'{where}.tool_call_id' is missing.", f"{where}.tool_call_id")
    return format.id_for_template(message.tool_call_id)


def _content(where: str, message: Message) -> str:
    match message.content:
        case str(text):
            return text
        case None if message.role == "assistant":
            return ""
        case None:
            raise invalid(f"'{where}.content' is missing.", f"{where}.content")
        case parts:
            return "".join(_text(f"{where}.content[{i}]", part) for i, part in enumerate(parts))


def _text(where: str, part: TextPart) -> str:
    if part.type != "text":
        raise _unsupported_part(where)
    if part.text is None:
        raise invalid(f"'{where}.text' is missing.", f"{where}.text")
    return part.text


def _unsupported_part(where: str) -> ApiError:
    return invalid(f"'{where}.type' is not supported; expected text.", f"{where}.type")
