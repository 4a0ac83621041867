"""The Lark grammar that makes a model's answer a call, or keeps the calls in it to their schemas.

llguidance's dialect: `<[7]>` is the special token 7, and a lazy rule ends where its marker first
occurs. What is written here is what the formats' scanners read.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aweigh_runtime.text.tools import hermes, lark, mistral, qwen
from aweigh_runtime.text.tools.lark import Unenforceable
from aweigh_runtime.text.tools.qwen_grammar import Parameters

_ANY_OBJECT = {"type": "object"}
_RULE_OF_TOOL = re.compile(r"(?:call_|p)(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that may be called."""

    name: str
    parameters: Mapping[str, Any]
    strict: bool = False  # its schema holds also where the model chooses whether to call


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an answer may be."""

    tools: Sequence[Tool]
    required: bool  # the answer is a call; otherwise it may be
    parallel: bool  # it may be several
    special: Mapping[str, int]  # markers that are tokens of their own
    form: bool = False  # an answer that is no call is in the grammar named `form`

    def holds(self, tool: Tool) -> bool:
        """Calls of this function follow its schema."""
        return self.required or tool.strict


def hermes_grammar(wanted: Wanted) -> str:
    """<tool_call>, JSON, </tool_call>."""
    closes = _marker(hermes.CLOSES, wanted)
    calls = [f'"\\n" {_object(tool, "arguments", wanted)} "\\n" {closes}' for tool in wanted.tools]
    return _marked(wanted, hermes.OPENS, calls, again=f'"\\n" {_marker(hermes.OPENS, wanted)}')


def llama3_json_grammar(wanted: Wanted) -> str:
    """JSON alone."""
    calls = [_object(tool, "parameters", wanted) for tool in wanted.tools]
    if wanted.form and not wanted.required:
        raise Unenforceable("this model's calls are JSON, as the answer in that form may be")
    text = "" if wanted.required else r' | /[^{\s](?s:.*)/ | ""'
    more = _more(wanted, '"; " call')
    return f"start: call {more}{text}\n{_either(calls)}"


def mistral_grammar(wanted: Wanted) -> str:
    """[TOOL_CALLS] and a list of JSON; where [ARGS] is a token of its own, names and JSON."""
    if mistral.ARGUMENTS in wanted.special:
        arguments = _marker(mistral.ARGUMENTS, wanted)
        calls = [f"{lark.text(t.name)} {arguments} {_schema(t, wanted)}" for t in wanted.tools]
        return _marked(wanted, mistral.OPENS, calls, again=_marker(mistral.OPENS, wanted))
    calls = [_object(tool, "arguments", wanted) for tool in wanted.tools]
    more = _more(wanted, '", " call')
    start = _start(wanted, mistral.OPENS, f'"[" call {more} "]"')
    return f"{start}\n{_either(calls)}"


def qwen_grammar(wanted: Wanted) -> str:
    """<tool_call>, <function=…>, parameters, </function>, </tool_call>."""
    ends = f'{lark.text(qwen.FUNCTION_ENDS)} "\\n" {_marker(hermes.CLOSES, wanted)}'
    calls, rules = [], []
    for index, tool in enumerate(wanted.tools):
        function = tool.parameters if wanted.holds(tool) else _ANY_OBJECT
        try:
            parameters = Parameters(function, f"p{index}", strict=tool.strict)
        except Unenforceable as error:
            raise Unenforceable(blamed(tool.name, str(error))) from error
        rules += parameters.rules
        begins = lark.text(f"\n{qwen.FUNCTION}{tool.name}>\n")
        calls.append(f"{begins} {parameters.sequence} {ends}")
    again = f'"\\n" {_marker(hermes.OPENS, wanted)}'
    return "\n".join([_marked(wanted, hermes.OPENS, calls, again=again), *rules])


def tool_at(grammar: str, line: int) -> int | None:
    """The tool that a line of a whole grammar is about, by its index; the first line is 1."""
    lines = json.loads(grammar)["grammars"][0]["lark_grammar"].split("\n")
    rule = _RULE_OF_TOOL.match(lines[line - 1]) if line <= len(lines) else None
    return None if rule is None else int(rule[1])


def blamed(tool: str, what: str) -> str:
    """What is wrong, and with whose parameters."""
    return f"in the parameters of '{tool}': {what}"


def combined(calls: str, form: str) -> str:
    """Calls, or an answer in a form; both as grammars, the form's as llguidance's JSON."""
    (answer,) = json.loads(form)["grammars"]
    return json.dumps({"grammars": [{"lark_grammar": calls}, {**answer, "name": "form"}]})


def _marked(wanted: Wanted, opens: str, calls: list[str], *, again: str) -> str:
    """Calls that each begin with a marker; `again` is that of a further one."""
    body = f"call {_more(wanted, f'{again} call')}"
    return f"{_start(wanted, opens, body)}\n{_either(calls)}"


def _start(wanted: Wanted, opens: str, body: str) -> str:
    if wanted.required:
        return f"start: {_marker(opens, wanted)} {body}"
    if wanted.form:
        return f"start: @form | {_marker(opens, wanted)} {body}"
    if opens in wanted.special:
        return f"start: TEXT | TEXT {_marker(opens, wanted)} {body}\nTEXT: {lark.ANY_TEXT}"
    lazily = f"opening[lazy]: TEXT {lark.text(opens)}"
    return f"start: TEXT | opening {body}\n{lazily}\nTEXT: {lark.ANY_TEXT}"


def _more(wanted: Wanted, further: str) -> str:
    return f"({further})*" if wanted.parallel else ""


def _object(tool: Tool, arguments: str, wanted: Wanted) -> str:
    head = f'{{"name": {json.dumps(tool.name)}, "{arguments}": '
    return f'{lark.text(head)} {_schema(tool, wanted)} "}}"'


def _schema(tool: Tool, wanted: Wanted) -> str:
    parameters = {**_ANY_OBJECT, **tool.parameters} if wanted.holds(tool) else _ANY_OBJECT
    return lark.schema(parameters, strict=tool.strict)


def _marker(text: str, wanted: Wanted) -> str:
    return f"<[{wanted.special[text]}]>" if text in wanted.special else lark.text(text)


def _either(calls: Sequence[str]) -> str:
    """A call of one of the tools: each has a rule of its own, by which `tool_at` knows it."""
    rules = {f"call_{index}": call for index, call in enumerate(calls)}
    return "\n".join([f"call: {' | '.join(rules)}", *(f"{n}: {call}" for n, call in rules.items())])
