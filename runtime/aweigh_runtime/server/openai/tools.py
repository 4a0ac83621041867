"""The tools of a chat request: what clients may send, and what it means for this model.

A function's schema is looked at, never followed: nothing outside of it is fetched.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Meta

from aweigh_http.errors import ApiError
from aweigh_runtime.server.errors import invalid
from aweigh_runtime.text.grammar import (
    GrammarRefused,
    expect_self_contained,
    of_lark,
    without_place,
)
from aweigh_runtime.text.tokenizer import Tokenizer
from aweigh_runtime.text.tools.events import Reader
from aweigh_runtime.text.tools.formats import Format
from aweigh_runtime.text.tools.grammar import Tool, Wanted, blamed, combined, tool_at
from aweigh_runtime.text.tools.lark import Unenforceable
from aweigh_runtime.text.tools.names import NAME_CHARACTERS, NAME_PATTERN
from aweigh_runtime.text.tools.scanner import ToolReader

MAX_TOOLS = 128
MAX_CALLS = 128  # in one turn of a chat
MAX_SCHEMA_BYTES = 64_000
MAX_DEPTH = 32
MAX_GRAMMAR_BYTES = 1 << 20
_INT64 = 2**63

FunctionName = Annotated[str, Meta(pattern=NAME_PATTERN)]
Mode = Literal["none", "auto", "required"]


class FunctionSpec(msgspec.Struct, frozen=True):
    """Something that the model may ask the client to call."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolSpec(msgspec.Struct, frozen=True):
    """OpenAI's wrapping of a function."""

    type: Literal["function"]
    function: FunctionSpec


class FunctionReference(msgspec.Struct, frozen=True):
    """A function by its name."""

    name: FunctionName


class NamedChoice(msgspec.Struct, frozen=True):
    """The function that has to be called."""

    type: Literal["function"]
    function: FunctionReference


class FunctionCall(msgspec.Struct, frozen=True):
    """What an earlier turn has called."""

    name: FunctionName
    arguments: str


class PastCall(msgspec.Struct, frozen=True):
    """A call in an earlier turn."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


Tools = Annotated[list[ToolSpec], Meta(max_length=MAX_TOOLS)]


class Asked(Protocol):
    """The part of a chat request that is about tools."""

    @property
    def tools(self) -> list[ToolSpec] | None:
        """Functions on offer."""
        ...

    @property
    def tool_choice(self) -> Mode | NamedChoice | None:
        """Whether one has to be called; None: auto."""
        ...

    @property
    def parallel_tool_calls(self) -> bool | None:
        """Whether several may be; None: they may."""
        ...


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls that an answer may make, or has to."""

    shown: list[dict[str, Any]]  # every tool, as chat templates know it
    tools: list[Tool]  # those that may be called
    required: bool
    parallel: bool
    format: Format
    special: Mapping[str, int]  # the format's markers that are special tokens

    def reader(self) -> Reader:
        """Finds the calls in one answer."""
        parameters = {tool.name: tool.parameters for tool in self.tools}
        most = None if self.parallel else 1
        return ToolReader(self.format.scan, parameters, most, self.format.new_id)

    def grammar(self, form: str | None) -> str | None:
        """What an answer is held to; `form` is the grammar of one that makes no call.

        Raises:
            ApiError: it cannot be held to that.
        """
        form = None if self.required else form
        if form is None and not self.required and not any(tool.strict for tool in self.tools):
            return None
        forms = form is not None
        wanted = Wanted(self.tools, self.required, self.parallel, self.special, forms)
        for tool in filter(wanted.holds, self.tools):
            _expect_self_contained(tool)
        try:
            lark = self.format.grammar(wanted)
            return of_lark(lark, MAX_GRAMMAR_BYTES) if form is None else combined(lark, form)
        except (Unenforceable, GrammarRefused) as error:
            raise _unenforceable(str(error)) from error

    def refusal(self, grammar: str, problem: str) -> ApiError:
        """What the compiler says of this grammar, about the function that is meant."""
        line, what = without_place(problem)
        index = None if line is None else tool_at(grammar, line)
        return _unenforceable(what if index is None else blamed(self.tools[index].name, what))


def calls_of(asked: Asked, format: Format, tokenizer: Tokenizer) -> Calls | None:
    """The calls that a request wants; None: none, and then its tools do not matter.

    Raises:
        ApiError: a tool or the choice is not valid.
    """
    for index, spec in enumerate(asked.tools or ()):
        _expect_sound(f"tools[{index}].function", spec.function)
    names = [spec.function.name for spec in asked.tools or ()]
    _expect_known(asked.tool_choice, names)
    if not asked.tools or asked.tool_choice == "none":
        return None
    named = asked.tool_choice if isinstance(asked.tool_choice, NamedChoice) else None
    return Calls(
        shown=[_shown(spec.function) for spec in asked.tools],
        tools=[
            _tool(spec.function)
            for spec in asked.tools
            if named is None or spec.function.name == named.function.name
        ],
        required=asked.tool_choice == "required" or named is not None,
        parallel=asked.parallel_tool_calls is not False and named is None,
        format=format,
        special={
            marker: id
            for marker in format.markers & tokenizer.specials.index_of.keys()
            if (id := tokenizer.id_of(marker)) is not None
        },
    )


def _expect_self_contained(tool: Tool) -> None:
    try:
        expect_self_contained(tool.parameters)
    except GrammarRefused as error:
        raise _unenforceable(blamed(tool.name, str(error))) from error


def _unenforceable(why: str) -> ApiError:
    return invalid(f"'tools' cannot be enforced: {why}.", "tools")


def past_call(call: PastCall, format: Format) -> dict[str, Any]:
    """An earlier turn's call as chat templates know it: most want an object as arguments."""
    function = {"name": call.function.name, "arguments": _object(call.function.arguments)}
    return {"id": format.id_for_template(call.id), "type": call.type, "function": function}


def _shown(function: FunctionSpec) -> dict[str, Any]:
    described = {} if function.description is None else {"description": function.description}
    parameters = {"type": "object", "properties": {}} | (function.parameters or {})
    shown = {"name": function.name, **described, "parameters": parameters}
    return {"type": "function", "function": shown}


def _tool(function: FunctionSpec) -> Tool:
    return Tool(function.name, function.parameters or {}, bool(function.strict))


def _expect_known(choice: Mode | NamedChoice | None, names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise invalid(f"'tools' has the name '{twice}' twice; expected each once.", "tools")
    if isinstance(choice, NamedChoice) and choice.function.name not in names:
        raise invalid(
            f"'tool_choice' names '{choice.function.name}'; expected one of the functions in "
            "'tools'.",
            "tool_choice",
        )
    if choice == "required" and not names:
        raise invalid("'tool_choice' is required; expected functions in 'tools'.", "tool_choice")


def _expect_sound(where: str, function: FunctionSpec) -> None:
    if not NAME_CHARACTERS.issuperset(function.name):  # a pattern lets a line break at the end pass
        raise invalid(f"'{where}.name' is not valid: expected {NAME_PATTERN}.", f"{where}.name")
    parameters = function.parameters or {}
    param = f"{where}.parameters"
    if not _is_plain(parameters):
        raise invalid(
            f"'{param}' is not valid: expected at most {MAX_DEPTH} levels, and integers of 64 bit.",
            param,
        )
    size = len(msgspec.json.encode(parameters))
    if size > MAX_SCHEMA_BYTES:
        raise invalid(f"'{param}' has {size} bytes; expected {MAX_SCHEMA_BYTES} at most.", param)
    if parameters.get("type", "object") != "object":
        raise invalid(
            f"'{param}.type' is not valid: arguments are always an object; expected object.", param
        )


def _object(arguments: str) -> Any:
    """The arguments as an object; the text itself where a model has written something else."""
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.MsgspecError, RecursionError):
        return arguments
    return value if isinstance(value, dict) and _is_plain(value) else arguments


def _is_plain(value: Any) -> bool:
    """Neither too deep nor beyond what the template's process can be told. Level by level."""
    level = [value]
    for _ in range(MAX_DEPTH):
        if any(type(item) is int and not -_INT64 <= item < _INT64 for item in level):
            return False
        inner = [list(item.values()) for item in level if isinstance(item, dict)]
        inner += [item for item in level if isinstance(item, list)]
        level = [item for items in inner for item in items]
        if not level:
            return True
    return False
