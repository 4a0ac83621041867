"""Keeps clients from writing control tokens: what they typed stays text.

Before a message goes into the chat template, each special token spelled out in it is replaced by a
stand-in that nobody can guess. In the rendered prompt the special tokens that are left are the
template's own; the stand-ins are turned back and tokenized as plain text. A message without special
tokens, which is nearly every message, passes unchanged.
"""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a prompt."""

    text: str
    literal: bool  # special tokens in it are just text


class Disguise:
    """Stand-ins for one request."""

    def __init__(self, specials: Sequence[str]) -> None:
        self._specials = sorted(specials, key=len, reverse=True)  # the longest match wins
        self._nonce = secrets.token_hex(16)

    def put_on(self, value: Any) -> Any:
        """The value with every string in it disguised."""
        if isinstance(value, str):
            return self._hidden(value)
        if isinstance(value, list):
            return [self.put_on(item) for item in value]
        if isinstance(value, dict):
            return {key: self.put_on(item) for key, item in value.items()}
        return value

    def take_off(self, prompt: str) -> list[Piece]:
        """The rendered prompt, cut where stand-ins are."""
        parts = re.split(f"{self._nonce}([0-9a-f]{{8}})", prompt)
        pieces = [Piece(text, literal=False) for text in parts]
        pieces[1::2] = [
            Piece(self._specials[int(index, 16)], literal=True) for index in parts[1::2]
        ]
        return [piece for piece in pieces if piece.text]

    def _hidden(self, text: str) -> str:
        present = [special for special in self._specials if special in text]
        if not present:
            return text
        pattern = "|".join(re.escape(special) for special in present)
        return re.sub(pattern, lambda match: self._stand_in(match.group()), text)

    def _stand_in(self, special: str) -> str:
        return f"{self._nonce}{self._specials.index(special):08x}"
