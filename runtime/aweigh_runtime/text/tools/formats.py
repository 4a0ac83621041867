"""The four ways of writing tool calls that models have learnt, and which of them a model uses."""

import hashlib
import secrets
import string
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from aweigh_runtime.text.tools import grammar as grammars
from aweigh_runtime.text.tools import hermes, llama3_json, mistral, qwen
from aweigh_runtime.text.tools.grammar import Wanted
from aweigh_runtime.text.tools.scanner import Scan, new_call_id

FormatName = Literal["hermes", "llama3-json", "mistral", "qwen"]

_ALPHANUMERIC = string.ascii_letters + string.digits
_MISTRAL_ID_SIZE = 9  # letters and digits: its templates refuse any other id


@dataclass(frozen=True, slots=True)
class Format:
    """One way of writing tool calls."""

    name: FormatName
    markers: frozenset[str]  # in some models these are special tokens, which are hidden in text
    scan: Scan
    write: Callable[[str, str], str]
    grammar: Callable[[Wanted], str]
    new_id: Callable[[], str] = new_call_id
    id_for_template: Callable[[str], str] = str


def _new_mistral_id() -> str:
    return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(_MISTRAL_ID_SIZE))


def _mistral_id(id: str) -> str:
    """The id itself if it is one of Mistral's, else one that is always the same for it."""
    if len(id) == _MISTRAL_ID_SIZE and id.isascii() and id.isalnum():
        return id
    return hashlib.sha256(id.encode()).hexdigest()[:_MISTRAL_ID_SIZE]


HERMES = Format(
    "hermes",
    frozenset({hermes.OPENS, hermes.CLOSES}),
    hermes.scan,
    hermes.write,
    grammars.hermes_grammar,
)
LLAMA3_JSON = Format(
    "llama3-json",
    frozenset({llama3_json.OPENS}),
    llama3_json.scan,
    llama3_json.write,
    grammars.llama3_json_grammar,
)
MISTRAL = Format(
    "mistral",
    frozenset({mistral.OPENS, mistral.ARGUMENTS, mistral.CALL_ID}),
    mistral.scan,
    mistral.write,
    grammars.mistral_grammar,
    _new_mistral_id,
    _mistral_id,
)
QWEN = Format(
    "qwen",
    frozenset({hermes.OPENS, hermes.CLOSES}),
    qwen.scan,
    qwen.write,
    grammars.qwen_grammar,
)
FORMATS = {format.name: format for format in (HERMES, LLAMA3_JSON, MISTRAL, QWEN)}


def choose(wanted: str, template: str, specials: Collection[str]) -> Format:
    """The format of this name; for `auto`, what the chat template and the tokens give away.

    A template that shows none of the four leaves Hermes's, which many models have seen.
    """
    if wanted != "auto":
        return next(format for format in FORMATS.values() if format.name == wanted)
    if qwen.FUNCTION in template:
        return QWEN
    if hermes.OPENS in template:
        return HERMES
    if mistral.OPENS in template or (mistral.OPENS in specials and "tools" in template):
        return MISTRAL
    if llama3_json.OPENS in specials and "parameters" in template:
        return LLAMA3_JSON
    return HERMES
