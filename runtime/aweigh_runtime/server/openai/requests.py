"""What clients may send. Types are strict, every number has bounds, unknown names are ignored.

A known name that changes the answer and is not supported yet is refused, unless its value is the
neutral one that some clients always send: what is accepted works.
"""

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from aweigh_runtime.server.openai.errors import ApiError, invalid

MAX_CHOICES = 8
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256
MAX_MESSAGES = 4096
MAX_PROMPTS = 32
_INT64 = 2**63

Stop = Annotated[str, Meta(max_length=MAX_STOP_CHARACTERS)]
Count = Annotated[int, Meta(ge=1, le=2**31)]


class StreamOptions(msgspec.Struct, frozen=True):
    """What else a stream carries."""

    include_usage: bool | None = None


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """What both endpoints share."""

    model: str
    max_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31)] | None = None  # 0 and -1: all
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=-_INT64, le=_INT64 - 1)] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=MAX_STOPS)] | None = None
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


class TextPart(msgspec.Struct, frozen=True):
    """A part of a message."""

    type: str
    text: str | None = None


class Message(msgspec.Struct, frozen=True):
    """One turn of a chat."""

    role: str
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[Any] | None = None


class ChatRequest(Parameters, frozen=True, kw_only=True):
    """Body of /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Count | None = None

    @property
    def limit(self) -> int | None:
        """Tokens of the answer, under either of its names."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(Parameters, frozen=True, kw_only=True):
    """Body of /v1/completions."""

    prompt: str | list[Any]


_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "prompt_logprobs": (),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "structured_outputs": ({},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "use_beam_search": (False,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "logits_processors": ([],),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "documents": ([],),
    "truncate_prompt_tokens": (),
    "prompt_embeds": (),
}

RequestType = TypeVar("RequestType", ChatRequest, CompletionRequest)


def parse(body: bytes | bytearray, kind: type[RequestType]) -> RequestType:
    """Read a request.

    Raises:
        ApiError: with status 400 and the field's name.
    """
    values = _object(body)
    for name, neutral in _NEUTRAL.items():
        value = values.get(name)
        if value is not None and not _among(value, neutral):
            raise invalid(f"'{name}' is not supported yet: remove it.", name)
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise _described(error) from error


def _among(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Equal and of the same kind: False is not 0 here."""
    return any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in neutral)


def _object(body: bytes | bytearray) -> dict[str, Any]:
    try:
        values = msgspec.json.decode(body)
        body.decode()  # strings are checked above, the rest of the body here
    except RecursionError as error:
        raise invalid("The body is nested too deeply.") from error
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise invalid("The body is not valid JSON; expected one JSON object in UTF-8.") from error
    if not isinstance(values, dict):
        raise invalid("The body is not a JSON object; expected an object with the parameters.")
    return values


def _described(error: msgspec.ValidationError) -> ApiError:
    """msgspec says what it expected and where: `Expected int, got str - at $.max_tokens`."""
    what, _, path = str(error).partition(" - at `$")
    where = path.strip("`").lstrip(".")
    missing = what.removeprefix("Object missing required field `")
    if missing != what:
        where = f"{where}.{missing.strip('`')}".lstrip(".")
        return invalid(f"'{where}' is missing.", where)
    return invalid(f"'{where}' is not valid: {what.replace('`', '')}.", where or None)
