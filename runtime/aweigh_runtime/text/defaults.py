"""What the model's own files say about generating: where answers end, and how to sample."""

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aweigh_runtime.failures import ModelUnreadable
from aweigh_runtime.fields import Fields, read_object
from aweigh_runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Defaults:
    """Used where a request says nothing."""

    stop_tokens: Set[int]
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


def read_defaults(directory: Path, tokenizer: Tokenizer) -> Defaults:
    """Read generation_config.json; config.json and the tokenizer also name end tokens.

    Raises:
        ModelUnreadable: a file is broken or a value is impossible.
    """
    path = directory / "generation_config.json"
    values = read_object(path) if path.is_file() else {}
    fields = Fields(path, values)
    return Defaults(
        stop_tokens=_stop_tokens(directory, values, tokenizer),
        temperature=fields.number("temperature", 0.0, 100.0, 1.0),
        top_p=fields.number("top_p", 0.0, 1.0, 1.0) or 1.0,
        top_k=_top_k(fields),
        min_p=fields.number("min_p", 0.0, 1.0, 0.0),
        repetition_penalty=fields.number("repetition_penalty", 0.01, 100.0, 1.0),
    )


def stop_tokens_of(directory: Path) -> frozenset[int]:
    """Where answers of a model end."""
    tokenizer = Tokenizer.load(directory)
    try:
        return frozenset(read_defaults(directory, tokenizer).stop_tokens)
    finally:
        tokenizer.close()


def _top_k(fields: Fields) -> int:
    """transformers samples from the 50 likeliest only when the file says so; 0 and -1 mean all."""
    return max(fields.integer("top_k", -1, 1 << 26, 0), 0)


def _stop_tokens(directory: Path, generation: dict[str, Any], tokenizer: Tokenizer) -> Set[int]:
    config = read_object(directory / "config.json")
    listed = generation.get("eos_token_id")
    if listed is None:
        listed = config.get("eos_token_id")
    ids = listed if isinstance(listed, list) else [] if listed is None else [listed]
    if not all(type(id) is int and id >= 0 for id in ids):
        raise ModelUnreadable(f"{directory}: eos_token_id is {listed!r}; expected token ids")
    end = token_text(tokenizer_config(directory).get("eos_token"))
    end_id = None if end is None else tokenizer.id_of(end)
    return frozenset(ids if end_id is None else [*ids, end_id])


def tokenizer_config(directory: Path) -> dict[str, Any]:
    """The object in tokenizer_config.json; empty when there is no such file."""
    path = directory / "tokenizer_config.json"
    return read_object(path) if path.is_file() else {}


def token_text(value: Any) -> str | None:
    """A special token as configs write it: its text, or an object with the text in `content`."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None
