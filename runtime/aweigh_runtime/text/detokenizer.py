"""Tokens back to text, one at a time. Never emits half a character; each token costs O(its size).

Every token stands for some bytes, and the text is those bytes read as UTF-8. So a piece of text is
final as soon as its bytes are a whole character, and nothing has to be decoded twice.
"""

import codecs
import json
import re
from collections.abc import Callable, Set
from typing import Any

from tokenizers import Tokenizer as Backend

_BYTE_TOKEN = re.compile(r"^<0x([0-9A-F]{2})>$")
_SPACE_MARK = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's space

Spelling = Callable[[str], bytes]


class Vocabulary:
    """The bytes of every token."""

    def __init__(self, backend: Backend, special: Set[int]) -> None:
        self._backend = backend
        self.special = special  # they control the model, and are text only for who asks for it
        self._spell = _spelling(json.loads(backend.to_str())["decoder"])
        self._known: dict[int, bytes] = {}

    def bytes_of(self, token: int) -> bytes:
        """What a token stands for. A token beyond the vocabulary stands for nothing."""
        known = self._known.get(token)
        if known is None:
            known = self._known[token] = self._spelled(token)
        return known

    def _spelled(self, token: int) -> bytes:
        name = self._backend.id_to_token(token)
        if name is None:
            return b""
        return name.encode() if token in self.special else self._spell(name)

    def longest_bytes(self) -> int:
        """The most that one token stands for; 0 when none stands for anything."""
        ids = self._backend.get_vocab(with_added_tokens=True).values()
        return max((len(self.bytes_of(id)) for id in ids), default=0)


class Detokenizer:
    """The text of one answer as it grows: what decoding prompt and answer adds to the prompt."""

    def __init__(self, vocabulary: Vocabulary, silent: Set[int]) -> None:
        """Args:
        silent: tokens that add nothing to the text.
        """
        self._vocabulary = vocabulary
        self._silent = silent
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """The characters that this token completes; often one, sometimes none."""
        if token in self._silent:
            return ""
        return self._utf8.decode(self._vocabulary.bytes_of(token))

    def finish(self) -> str:
        """What is left: a replacement character if the answer ends within one."""
        return self._utf8.decode(b"", final=True)


class UnknownSpelling(ValueError):
    """The tokenizer turns tokens into text in a way that is not built yet."""


def _spelling(decoder: dict[str, Any] | None) -> Spelling:
    steps = [] if decoder is None else decoder.get("decoders", [decoder])
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return _byte_level
    if kinds == ["Metaspace"] or (
        kinds and set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip"}
    ):
        return _sentencepiece
    raise UnknownSpelling(
        f"decoder {' + '.join(kinds) or 'none'} is not supported; supported: ByteLevel (Llama 3, "
        "Qwen, GPT) and SentencePiece's (Llama 2, Mistral, Gemma)"
    )


def _byte_level(token: str) -> bytes:
    """GPT-2's spelling: a printable character for every byte. Added tokens are spelled as text."""
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:
        return token.encode()


def _sentencepiece(token: str) -> bytes:
    if match := _BYTE_TOKEN.match(token):
        return bytes([int(match.group(1), 16)])
    return token.replace(_SPACE_MARK, " ").encode()


def _byte_characters() -> dict[str, int]:
    """Printable bytes stand for themselves; the others follow from U+0100, in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    characters = {chr(byte): byte for byte in printable}
    return characters | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTE_OF = _byte_characters()
