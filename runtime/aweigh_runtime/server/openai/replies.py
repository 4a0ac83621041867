"""What clients get: replies and the chunks of a stream, as OpenAI writes them."""

from typing import Generic, Literal, TypeVar

import msgspec

from aweigh_runtime.server.openai.logprobs import ChatLogprobs, PromptLogprobs, TextLogprobs

_encoder = msgspec.json.Encoder()

Finish = Literal["stop", "length", "tool_calls"]


class PromptDetails(msgspec.Struct, frozen=True):
    """Where prompt tokens came from."""

    cached_tokens: int = 0


class Usage(msgspec.Struct, frozen=True):
    """Tokens of a request, all its choices together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails = PromptDetails()


class FunctionDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to a call: the name at once, the arguments piece by piece."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to one of an answer's calls; id, type and name come with its first."""

    index: int
    function: FunctionDelta
    id: str | None = None
    type: str | None = None


class CalledFunction(msgspec.Struct, frozen=True):
    """What is called."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True):
    """One of an answer's calls."""

    id: str
    function: CalledFunction
    type: str = "function"


class ChatMessage(msgspec.Struct, frozen=True):
    """An answer."""

    content: str | None
    role: str = "assistant"
    refusal: None = None
    tool_calls: list[ToolCall] | msgspec.UnsetType = msgspec.UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    """One of n answers."""

    index: int
    message: ChatMessage
    finish_reason: Finish
    logprobs: ChatLogprobs | None = None


class ChatDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to an answer."""

    role: str | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(msgspec.Struct, frozen=True):
    """One of n answers, growing."""

    index: int
    delta: ChatDelta
    finish_reason: Finish | None = None
    logprobs: ChatLogprobs | None = None


class TextChoice(msgspec.Struct, frozen=True):
    """One of n continuations, whole or growing."""

    index: int
    text: str
    finish_reason: Finish | None = None
    logprobs: TextLogprobs | None = None
    prompt_logprobs: PromptLogprobs | msgspec.UnsetType = msgspec.UNSET


AnyChoice = TypeVar("AnyChoice", bound=msgspec.Struct)


class Reply(msgspec.Struct, Generic[AnyChoice], frozen=True, kw_only=True):
    """A whole reply, or one chunk of a stream, which has a usage only when that was asked for."""

    id: str
    object: str
    created: int
    model: str
    choices: list[AnyChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    prompt_logprobs: PromptLogprobs | msgspec.UnsetType = msgspec.UNSET

    def json(self) -> bytes:
        """The body."""
        return _encoder.encode(self)


class Drafts(msgspec.Struct, frozen=True):
    """How often the server guesses right; not OpenAI's."""

    state: str
    acceptance_percent: int | None  # of all that was guessed; None: nothing was


class ModelCard(msgspec.Struct, frozen=True):
    """The model as /v1/models shows it."""

    id: str
    created: int
    max_model_len: int
    object: str = "model"
    owned_by: str = "aweigh"
    speculation: Drafts | msgspec.UnsetType = msgspec.UNSET

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


class Tokenized(msgspec.Struct, frozen=True):
    """Body of /tokenize."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None

    def json(self) -> bytes:
        """The body."""
        return _encoder.encode(self)


class Detokenized(msgspec.Struct, frozen=True):
    """Body of /detokenize."""

    prompt: str

    def json(self) -> bytes:
        """The body."""
        return _encoder.encode(self)


def usage(num_prompt: int, num_cached: int, num_answer: int) -> Usage:
    """The figures of one request."""
    details = PromptDetails(num_cached)
    return Usage(num_prompt, num_answer, num_prompt + num_answer, details)
