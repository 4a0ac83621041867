"""Keeps clients from writing control tokens: what they typed stays text.

Before a message goes into the chat template, each special token spelled out in it is replaced by a
stand-in that nobody can guess. In the rendered prompt the special tokens that are left are the
template's own; the stand-ins are turned back and tokenized as plain text. A message without special
tokens, which is nearly every message, passes unchanged.
"""

import re
import secrets
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

_INDEX = re.compile("[0-9a-f]{8}")  # a pattern with the nonce in it would be compiled each time


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a prompt."""

    text: str
    literal: bool  # special tokens in it are just text


class Specials:
    """A model's special tokens, and the pattern that finds them in one pass."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = tuple(text for text in texts if text)
        self.index_of = {text: index for index, text in enumerate(self.texts)}
        self.pattern = re.compile(_any_of(self.index_of.keys()))


class Disguise:
    """Stand-ins for one request."""

    def __init__(self, specials: Specials) -> None:
        self._specials = specials
        self._nonce = secrets.token_hex(16)

    def put_on(self, value: Any) -> Any:
        """The value with every string in it disguised, also those that name a field."""
        if isinstance(value, str):
            return self._hidden(value)
        if isinstance(value, list):
            return [self.put_on(item) for item in value]
        if isinstance(value, dict):
            return {self.put_on(key): self.put_on(item) for key, item in value.items()}
        return value

    def take_off(self, prompt: str) -> list[Piece]:
        """The rendered prompt, cut where stand-ins are."""
        first, *others = prompt.split(self._nonce)
        pieces = [Piece(first, literal=False)]
        for part in others:
            index = _INDEX.match(part)
            if index is None:  # the template has cut a stand-in to pieces
                pieces.append(Piece(self._nonce + part, literal=False))
            else:
                pieces.append(Piece(self._specials.texts[int(index.group(), 16)], literal=True))
                pieces.append(Piece(part[index.end() :], literal=False))
        return [piece for piece in pieces if piece.text]

    def _hidden(self, text: str) -> str:
        return self._specials.pattern.sub(self._stand_in, text)

    def _stand_in(self, match: re.Match[str]) -> str:
        return f"{self._nonce}{self._specials.index_of[match.group()]:08x}"


def _any_of(words: Set[str]) -> str:
    """A pattern for the longest of these words. Each common beginning is compared only once.

    With plain alternatives, a text of nothing but "<" is compared with every word at every place.
    """
    if not words:
        return r"(?!)"
    first, last = min(words), max(words)  # what these two share, all share
    sizes = range(len(first), -1, -1)
    beginning = next(first[:size] for size in sizes if last.startswith(first[:size]))
    ends = {word[len(beginning) :] for word in words}
    by_first: dict[str, set[str]] = {}
    for end in ends - {""}:
        by_first.setdefault(end[0], set()).add(end)
    branches = "|".join(_any_of(group) for _, group in sorted(by_first.items()))
    rest = f"(?:{branches})" if branches else ""
    return re.escape(beginning) + (f"{rest}?" if rest and "" in ends else rest)
