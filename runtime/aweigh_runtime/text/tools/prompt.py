"""Tells a model about tools whose chat template cannot: in words of a system message.

The wording is that of the Hermes models, with the format's own example of a call.
"""

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from aweigh_runtime.text.tools.formats import Format

Turn = dict[str, Any]

_EXAMPLE = ("FUNCTION_NAME", '{"PARAMETER_NAME": "VALUE"}')


def explained(turns: Sequence[Turn], tools: Sequence[Turn], format: Format) -> list[Turn]:
    """The same chat for a template that knows neither tools nor their calls and results."""
    plain: list[Turn] = []
    for is_result, group in groupby(turns, lambda turn: turn["role"] == "tool"):
        if is_result:  # one turn for all of them: templates want users and assistants to alternate
            plain.append({"role": "user", "content": "\n".join(map(_result, group))})
        else:
            plain += [_without_calls(turn, format) for turn in group]
    return _introduced(plain, tools, format) if tools else plain


def _introduced(turns: list[Turn], tools: Sequence[Turn], format: Format) -> list[Turn]:
    words = _words(tools, format)
    if turns and turns[0]["role"] in ("system", "developer"):
        first = {**turns[0], "content": f"{turns[0]['content']}\n\n{words}"}
        return [first, *turns[1:]]
    return [{"role": "system", "content": words}, *turns]


def _words(tools: Sequence[Turn], format: Format) -> str:
    signatures = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return (
        "You may call functions to help the user. These are their signatures:\n"
        f"<tools>\n{signatures}\n</tools>\n"
        f"Each call of a function is written like this:\n{format.write(*_EXAMPLE)}"
    )


def _result(turn: Turn) -> str:
    return f"<tool_response>\n{turn['content']}\n</tool_response>"


def _without_calls(turn: Turn, format: Format) -> Turn:
    calls = [call["function"] for call in turn.get("tool_calls", ())]
    if not calls:
        return turn
    texts = [
        format.write(call["name"], json.dumps(call["arguments"], ensure_ascii=False))
        for call in calls
    ]
    content = "\n".join(filter(None, [turn["content"], *texts]))
    return {key: value for key, value in turn.items() if key != "tool_calls"} | {"content": content}
