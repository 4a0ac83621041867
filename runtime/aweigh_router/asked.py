"""What the router reads of a request's body: what it needs to choose a pod. Pods check the rest."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aweigh_api.routing import MAX_CHOICES, MAX_PROMPTS, RESUME_FIELD

PREFIX_BYTES = 1 << 10
CONVERSATION_BYTES = 16 << 10

_encoder = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


class BadBody(ValueError):
    """No pod could read it; the message is for the client."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as far as the router cares."""

    model: str | None = None  # its name; None: whichever is there
    stream: bool = False
    num_prompts: int = 0
    num_answers: int = 0  # that a pod computes for it; 0: it takes no room
    prefix: bytes = b""  # key: requests that have it begin alike; empty: nothing to look for
    conversation: bytes = b""  # key: requests that have it are turns of one chat


def read(body: bytes | bytearray, tenant: bytes) -> Asked:
    """What a request for answers asks for.

    Args:
        body: JSON.
        tenant: whose cached prefixes it may use; others have other keys.

    Raises:
        BadBody: it is no object, has a field that only routers may send, or asks for too much.
    """
    try:
        fields = json.loads(body)
        if not isinstance(fields, dict):
            raise BadBody("The body is not a JSON object.")
        if RESUME_FIELD in fields:
            raise BadBody(f"Unknown field '{RESUME_FIELD}'.", RESUME_FIELD)
        num_prompts = _prompts(fields)
        prefix, conversation = _keys(tenant, fields)
        return Asked(
            model=_model(fields),
            stream=fields.get("stream") is True,
            num_prompts=num_prompts,
            num_answers=num_prompts * _choices(fields),
            prefix=prefix,
            conversation=conversation,
        )
    except BadBody:
        raise
    except ValueError as error:  # an integer of thousands of digits is one, too
        raise BadBody("The body is not valid JSON.") from error
    except RecursionError as error:
        raise BadBody("The body is nested too deeply.") from error


def model_of(body: bytes | bytearray) -> str | None:
    """The name of the model that another request asks for; None: of none, as far as can be read."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return _model(fields) if isinstance(fields, dict) else None


def _model(fields: Mapping[str, Any]) -> str | None:
    name = fields.get("model")
    return name if isinstance(name, str) else None


def _prompts(fields: Mapping[str, Any]) -> int:
    """How many it has. What makes no sense here a pod will refuse."""
    prompt = fields.get("prompt")
    if not isinstance(prompt, list) or not prompt or not isinstance(prompt[0], str | list):
        return 1
    if len(prompt) > MAX_PROMPTS:
        what = f"'prompt' is a list of {len(prompt)} items; expected {MAX_PROMPTS} at most."
        raise BadBody(what, "prompt")
    return len(prompt)


def _choices(fields: Mapping[str, Any]) -> int:
    """Of each prompt."""
    n = fields.get("n")
    if not isinstance(n, int) or n < 1:
        return 1
    if n > MAX_CHOICES:
        raise BadBody(f"'n' is too large; expected an integer from 1 to {MAX_CHOICES}.", "n")
    return n


def _keys(tenant: bytes, fields: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Of what a request begins with, and of the chat, whose later turns have the same keys.

    A chat that is not told apart by the first is by what its user has said first: what stands
    before that all chats may have alike, however long it is.
    """
    said = begins = fields.get("prompt")
    if "messages" in fields:
        said = begins = _first_turn(fields["messages"])
        if isinstance(begins, list) and any(map(_of_user, begins)):
            said = begins[-1]
    value = [fields.get("model"), fields.get("tools"), begins]
    written = _beginning(value, PREFIX_BYTES + 1)
    prefix = _hash(tenant + written[:PREFIX_BYTES])
    if len(written) <= PREFIX_BYTES:
        return prefix, prefix
    return prefix, _hash(prefix + _beginning(said, CONVERSATION_BYTES))


def _hash(value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=16).digest()


def _first_turn(messages: object) -> object:
    """Up to the first message of the user."""
    if not isinstance(messages, list):
        return messages
    for index, message in enumerate(messages):
        if _of_user(message):
            return messages[: index + 1]
    return messages


def _of_user(message: object) -> bool:
    return isinstance(message, dict) and message.get("role") == "user"


def _beginning(value: object, limit: int) -> bytes:
    """Of canonical JSON; no more of it is written than is needed."""
    written = bytearray()
    for part in _encoder.iterencode(value):
        written += part[:limit].encode(errors="surrogatepass")
        if len(written) >= limit:
            break
    return bytes(written[:limit])
