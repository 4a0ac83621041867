"""What clients may say about an answer's form, and the one grammar that it comes to."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from aweigh_http.errors import ApiError
from aweigh_runtime.server.errors import grammars_busy, invalid, worker_lost
from aweigh_runtime.server.service import Model
from aweigh_runtime.text.grammar import (
    CheckersBusy,
    GrammarRefused,
    Schema,
    of_choice,
    of_lark,
    of_regex,
    of_schema,
    without_place,
)
from aweigh_runtime.text.worker import Died

MAX_ALTERNATIVES = 1024
_ANY_OBJECT = {"type": "object"}

Name = Annotated[str, Meta(max_length=64)]
Choice = Annotated[list[str], Meta(min_length=1, max_length=MAX_ALTERNATIVES)]


class NamedSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON schema as OpenAI wraps it. It always holds, `strict` or not."""

    schema: Schema
    name: Name | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """OpenAI's field."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


class StructuredOutputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """vLLM's field."""

    json: Schema | str | None = None
    regex: str | None = None
    choice: Choice | None = None
    grammar: str | None = None
    json_object: bool | None = None


class StructureFields(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a request that is about the answer's form; vLLM's older names are the last."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | str | None = None
    guided_regex: str | None = None
    guided_choice: Choice | None = None
    guided_grammar: str | None = None


async def wanted_grammar(model: Model, asked: StructureFields, caller: bytes) -> str | None:
    """The grammar of the answer, found to be valid; None: any text.

    Raises:
        ApiError: it is not, or several forms are asked for.
    """
    forms = list(_forms(asked))
    if len(forms) > 1:
        first, second = forms[0][0], forms[1][0]
        raise invalid(f"'{first}' and '{second}' are both given; expected one of them.", second)
    for param, write, wanted in forms:
        refusal = partial(_refusal, param)
        try:
            grammar = write(wanted)
        except GrammarRefused as error:
            raise refusal(str(error)) from error
        return await checked(model, grammar, refusal, caller)
    return None


async def checked(
    model: Model, grammar: str, refusal: Callable[[str], ApiError], caller: bytes
) -> str:
    """The same grammar, found to be valid.

    Raises:
        ApiError: it is not; `refusal` words the problem.
    """
    try:
        await model.grammars.check(grammar, caller)
    except GrammarRefused as error:
        raise refusal(str(error)) from error
    except CheckersBusy as error:
        raise grammars_busy() from error
    except Died as error:
        raise worker_lost("compiles grammars") from error
    return grammar


def _refusal(param: str, problem: str) -> ApiError:
    """A place is of interest only in a grammar that the client has written."""
    what = problem if param.endswith("grammar") else without_place(problem)[1]
    return invalid(f"'{param}' is not valid: {what}.", param)


def _forms(asked: StructureFields) -> Iterator[tuple[str, Callable[[Any], str], Any]]:
    """What asks for a form: the parameter, what writes its grammar, the value."""
    yield from _of_format(asked.response_format)
    given = asked.structured_outputs or StructuredOutputs()
    if given.json_object:
        yield "structured_outputs.json_object", of_schema, _ANY_OBJECT
    for name, write in _WRITERS.items():
        for param, value in (
            (f"structured_outputs.{name}", getattr(given, name)),
            (f"guided_{name}", getattr(asked, f"guided_{name}")),
        ):
            if value is not None:
                yield param, write, value


_WRITERS = {"json": of_schema, "regex": of_regex, "choice": of_choice, "grammar": of_lark}


def _of_format(format: ResponseFormat | None) -> Iterator[tuple[str, Callable[[Any], str], Any]]:
    if format is None or format.type == "text":
        return
    if format.type == "json_object":
        yield "response_format", of_schema, _ANY_OBJECT
        return
    param = "response_format.json_schema"
    if format.json_schema is None:
        raise invalid(f"'{param}' is missing.", param)
    yield param, of_schema, format.json_schema.schema
