"""What clients get: replies and the chunks of a stream, as OpenAI writes them."""

from typing import Literal

import msgspec

_encoder = msgspec.json.Encoder()

Finish = Literal["stop", "length"]


class PromptDetails(msgspec.Struct, frozen=True):
    """Where prompt tokens came from."""

    cached_tokens: int = 0


class Usage(msgspec.Struct, frozen=True):
    """Tokens of a request, all its choices together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails = PromptDetails()


class ChatMessage(msgspec.Struct, frozen=True):
    """An answer."""

    content: str
    role: str = "assistant"
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True):
    """One of n answers."""

    index: int
    message: ChatMessage
    finish_reason: Finish
    logprobs: None = None


class ChatDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to an answer."""

    role: str | None = None
    content: str | None = None


class ChatChunkChoice(msgspec.Struct, frozen=True):
    """One of n answers, growing."""

    index: int
    delta: ChatDelta
    finish_reason: Finish | None = None
    logprobs: None = None


class TextChoice(msgspec.Struct, frozen=True):
    """One of n continuations, whole or growing."""

    index: int
    text: str
    finish_reason: Finish | None = None
    logprobs: None = None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A whole reply, or one chunk of a stream, which has a usage only when that was asked for."""

    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice] | list[ChatChunkChoice] | list[TextChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET

    def json(self) -> bytes:
        """The body."""
        return _encoder.encode(self)


class ModelCard(msgspec.Struct, frozen=True):
    """The model as /v1/models shows it."""

    id: str
    created: int
    max_model_len: int
    object: str = "model"
    owned_by: str = "aweigh"

    def json(self) -> bytes:
        """The body of /v1/models/NAME."""
        return _encoder.encode(self)


class ModelList(msgspec.Struct, frozen=True):
    """Body of /v1/models."""

    data: list[ModelCard]
    object: str = "list"

    def json(self) -> bytes:
        """The body."""
        return _encoder.encode(self)


def usage(num_prompt: int, num_answer: int) -> Usage:
    """The figures of one request."""
    return Usage(num_prompt, num_answer, num_prompt + num_answer)
