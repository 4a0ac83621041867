"""What clients may send. Types are strict, every number has bounds, unknown names are ignored.

Of an integer's field 8.0 is 8: some clients have no other numbers than floating ones.

A known name that changes the answer and is not supported is refused: what is accepted works.
"""

from functools import cache
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, inspect

from aweigh_api.routing import MAX_CHOICES
from aweigh_runtime.server.errors import invalid
from aweigh_runtime.server.openai.structure import StructureFields
from aweigh_runtime.server.openai.tools import MAX_CALLS, Mode, NamedChoice, PastCall, Tools
from aweigh_runtime.server.openai.unsupported import expect_supported
from aweigh_runtime.server.openai.wording import explained

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256
MAX_STOP_TOKENS = 64
MAX_BIASES = 300
MAX_LOGPROBS = 20
MAX_SALT_CHARACTERS = 256
MAX_MESSAGES = 4096
MAX_SETTINGS = 32
MAX_SETTING_CHARACTERS = 1024
_INT32 = 2**31
_INT64 = 2**63

Stop = Annotated[str, Meta(max_length=MAX_STOP_CHARACTERS)]
Count = Annotated[int, Meta(ge=1, le=_INT32)]
TokenId = Annotated[int, Meta(ge=0, lt=_INT32)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Alternatives = Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)]
Int64 = Annotated[int, Meta(ge=-_INT64, le=_INT64 - 1)]
SettingName = Annotated[str, Meta(pattern="^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
SettingText = Annotated[str, Meta(max_length=MAX_SETTING_CHARACTERS)]
Settings = Annotated[
    dict[SettingName, bool | Int64 | float | SettingText | None], Meta(max_length=MAX_SETTINGS)
]


class StreamOptions(msgspec.Struct, frozen=True):
    """What else a stream carries."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Parameters(StructureFields, frozen=True, kw_only=True):
    """What both endpoints share."""

    model: str
    max_tokens: Count | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=_INT32)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=_INT32)] | None = None  # 0 and -1: all
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=2)] | None = None
    logit_bias: Annotated[dict[TokenId, Bias], Meta(max_length=MAX_BIASES)] | None = None
    seed: Int64 | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=MAX_STOPS)] | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=MAX_STOP_TOKENS)] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None  # in the answer's text; None: true
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, le=_INT32)] | None = None
    prompt_logprobs: Alternatives | None = None
    priority: Annotated[int, Meta(ge=-_INT32, lt=_INT32)] | None = None
    cache_salt: Annotated[str, Meta(min_length=1, max_length=MAX_SALT_CHARACTERS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> list[str]:
        """Stop strings; an empty one never matches."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else list(self.stop)

    @property
    def wants_usage(self) -> bool:
        """A stream ends with a chunk that has the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def wants_usage_always(self) -> bool:
        """Every chunk has the usage so far."""
        return self.wants_usage and bool(
            self.stream_options and self.stream_options.continuous_usage_stats
        )

    @property
    def alternatives(self) -> int | None:
        """So many likeliest tokens beside each one of the answer; None: no log-probabilities."""
        raise NotImplementedError


class TextPart(msgspec.Struct, frozen=True):
    """A part of a message."""

    type: str
    text: str | None = None


class Message(msgspec.Struct, frozen=True):
    """One turn of a chat."""

    role: str
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: Annotated[list[PastCall], Meta(max_length=MAX_CALLS)] | None = None
    tool_call_id: str | None = None


class ChatRequest(Parameters, frozen=True, kw_only=True):
    """Body of /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None
    tools: Tools | None = None
    tool_choice: Mode | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: Settings | None = None

    @property
    def limit(self) -> int | None:
        """Tokens of the answer, under either of its names."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """OpenAI's two fields in one."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Parameters, frozen=True, kw_only=True):
    """Body of /v1/completions."""

    prompt: str | list[Any]
    max_tokens: Annotated[int, Meta(ge=0, le=_INT32)] | None = None  # 0: the echo alone
    logprobs: Alternatives | None = None
    echo: bool | None = None
    add_special_tokens: bool | None = None  # around a prompt that is a text; None: true

    @property
    def alternatives(self) -> int | None:
        """Under the name that this endpoint has for it."""
        return self.logprobs


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of /tokenize: a text, or a chat as the model's template writes it."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)] | None = None
    tools: Tools | None = None
    tool_choice: Mode | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: Settings | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of /detokenize."""

    tokens: list[TokenId]
    model: str | None = None


Body = TypeVar("Body", ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest)


def parse(body: bytes | bytearray, kind: type[Body]) -> Body:
    """Read a request.

    Raises:
        ApiError: with status 400 and the field's name.
    """
    values = _object(body)
    expect_supported(values, kind.__struct_fields__)
    for name in _integers(kind):
        value = values.get(name)
        if isinstance(value, float) and value.is_integer():
            values[name] = int(value)
    try:
        asked = msgspec.convert(values, kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise explained(error, kind, values) from error
    if isinstance(asked, Parameters):
        _expect_consistent(asked)
    return asked


@cache
def _integers(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """Fields that hold one."""
    fields = inspect.type_info(kind).fields  # type: ignore[attr-defined]
    return tuple(field.name for field in fields if _is_integer(field.type))


def _is_integer(type_: inspect.Type) -> bool:
    options = type_.types if isinstance(type_, inspect.UnionType) else (type_,)
    return any(isinstance(option, inspect.IntType) for option in options)


def _expect_consistent(asked: Parameters) -> None:
    if asked.stream and asked.prompt_logprobs is not None:
        raise invalid(
            "'prompt_logprobs' cannot be streamed: remove it or 'stream'.", "prompt_logprobs"
        )
    if asked.truncate_prompt_tokens == 0:
        raise invalid(
            "'truncate_prompt_tokens' is 0; expected 1 or more, or -1 for what fits.",
            "truncate_prompt_tokens",
        )
    if isinstance(asked, CompletionRequest) and asked.max_tokens == 0 and not asked.echo:
        raise invalid(
            "'max_tokens' is 0; expected 1 or more, or 'echo': true for the prompt alone.",
            "max_tokens",
        )
    if isinstance(asked, ChatRequest) and asked.top_logprobs and not asked.logprobs:
        raise invalid("'top_logprobs' needs 'logprobs': true.", "top_logprobs")


def _object(body: bytes | bytearray) -> dict[str, Any]:
    try:
        values = msgspec.json.decode(body)
        body.decode()  # strings are checked above, the rest of the body here
    except RecursionError as error:
        raise invalid("The body is nested too deeply.", code="invalid_json") from error
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise invalid(
            "The body is not valid JSON; expected one JSON object in UTF-8.", code="invalid_json"
        ) from error
    if not isinstance(values, dict):
        raise invalid(
            "The body is not a JSON object; expected an object with the parameters.",
            code="invalid_json",
        )
    return values
