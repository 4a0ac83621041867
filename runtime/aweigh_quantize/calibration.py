"""Which texts a model is calibrated on and measured with: its own, or those in files.

Only to write its own texts must the dense model be in memory as a whole: a model that is larger
than memory needs files.
"""

import asyncio
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from aweigh_quantize.checkpoint import Checkpoint
from aweigh_quantize.failures import Refusal, Unusable
from aweigh_quantize.generation import Advance, Manner, generate
from aweigh_quantize.tensor_file import make_folder, write_text
from aweigh_quantize.texts import Text, num_tokens
from aweigh_runtime.failures import ModelDoesNotFit
from aweigh_runtime.fields import read_object
from aweigh_runtime.model.load import Wish, load
from aweigh_runtime.text.defaults import read_defaults
from aweigh_runtime.text.questions import questions
from aweigh_runtime.text.template import CannotRender, find_template
from aweigh_runtime.text.tokenizer import Tokenizer

MIN_TEXT_TOKENS = 16  # of each
MIN_TOKENS = 512  # with fewer, what is measured of the activations means nothing
_HELD_OUT_SHARE = 4  # of files that are calibrated on a fourth is held out, at most
_HELD_OUT = 1_000_003  # added to a seed: texts for measuring, never those for calibrating
_TRAINING = 2_000_003
_TIMES = 32  # as many texts as to calibrate on
_VERSION = 1  # of the way in which texts are made


Stored = dict[str, list[dict[str, Any]]]
"""Texts as JSON has them."""


class TooShort(Refusal):
    """The texts have too few tokens; the message says how many."""


@dataclass(frozen=True, slots=True)
class Amount:
    """How much text.

    Raises:
        TooShort: so few texts are no use, however long they get.
    """

    num_texts: int = 128
    num_tokens: int = 256  # of each, at most
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_tokens < MIN_TEXT_TOKENS:
            raise TooShort(
                f"--text-tokens is {self.num_tokens}; expected at least {MIN_TEXT_TOKENS}: the "
                "first tokens of a text say next to nothing of the rest"
            )
        if self.most_tokens < MIN_TOKENS:
            raise TooShort(
                f"--num-texts {self.num_texts} of --text-tokens {self.num_tokens} are at most "
                f"{self.most_tokens} tokens; expected at least {MIN_TOKENS}, and better 50,000: "
                "raise one of them"
            )

    @property
    def most_tokens(self) -> int:
        """Of all texts."""
        return self.num_texts * self.num_tokens

    def for_training(self) -> "Amount":
        """Several times as much."""
        return replace(self, num_texts=_TIMES * self.num_texts, seed=self.seed + _TRAINING)

    def held_out(self) -> "Amount":
        """As much, of texts that nothing is calibrated on."""
        return replace(self, seed=self.seed + _HELD_OUT)


def from_model(
    checkpoint: Checkpoint, amount: Amount, device: torch.device, cache_dir: Path, advance: Advance
) -> list[Text]:
    """Texts of the dense model itself: half of them answers, where it knows what is asked.

    They are kept in `cache_dir`, for the same model and amount.

    Raises:
        ModelDoesNotFit: to write texts, the whole model must be in memory.
        TooShort: it has written next to nothing.
        CannotWrite: the texts cannot be kept.
    """
    path = cache_dir / "texts" / f"{_key(checkpoint, amount)}.json"
    if path.is_file():
        return texts_of(json.loads(path.read_text()))  # it may be large: it is our own
    texts = _write(checkpoint, amount, device, advance)
    _expect_enough(
        num_tokens(texts),
        f"what {checkpoint.directory} writes itself",
        "raise --num-texts or --text-tokens",
    )
    make_folder(path.parent)
    write_text(path, json.dumps(as_json(texts)))
    return texts


def from_files(paths: Sequence[Path], checkpoint: Checkpoint, amount: Amount) -> list[Text]:
    """Pieces of files of UTF-8 text; if there are more than wanted, some of them by chance.

    Raises:
        TooShort: fewer than MIN_TOKENS tokens.
        OSError, UnicodeDecodeError: a file cannot be read.
    """
    pieces = _pieces(paths, checkpoint, amount)
    _expect_enough(num_tokens(pieces), _described(paths))
    if len(pieces) > amount.num_texts:
        pieces = random.Random(amount.seed).sample(pieces, amount.num_texts)
    return pieces


def divided(
    paths: Sequence[Path], checkpoint: Checkpoint, amount: Amount
) -> tuple[list[Text], list[Text]]:
    """Pieces of files to calibrate on, and others that are held out to measure with.

    By chance: as many of either as wanted, if the files have so many. No piece is among both.

    Raises:
        TooShort: fewer than MIN_TOKENS tokens are left to calibrate on.
        OSError, UnicodeDecodeError: a file cannot be read.
    """
    left, held_out = _split(paths, checkpoint, amount)
    calibration = left[: amount.num_texts]
    _expect_enough(
        num_tokens(calibration),
        f"{_described(paths)}, beside {num_tokens(held_out)} tokens held out to measure with,",
    )
    return calibration, held_out


def not_held_out(paths: Sequence[Path], checkpoint: Checkpoint, amount: Amount) -> list[Text]:
    """Pieces of files to train on: those to calibrate on, and more; none that `divided` holds out.

    Raises:
        TooShort: fewer than MIN_TOKENS tokens.
        OSError, UnicodeDecodeError: a file cannot be read.
    """
    left, _ = _split(paths, checkpoint, amount)
    return left[: amount.for_training().num_texts]


def _split(
    paths: Sequence[Path], checkpoint: Checkpoint, amount: Amount
) -> tuple[list[Text], list[Text]]:
    """All pieces of files, by chance: what is left, and what is held out."""
    pieces = _pieces(paths, checkpoint, amount)
    _expect_enough(num_tokens(pieces), _described(paths))
    random.Random(amount.seed).shuffle(pieces)
    num_held_out = max(1, min(amount.num_texts, len(pieces) // _HELD_OUT_SHARE))
    return pieces[num_held_out:], pieces[:num_held_out]


def _pieces(paths: Sequence[Path], checkpoint: Checkpoint, amount: Amount) -> list[Text]:
    """In the order of the files."""
    tokenizer = Tokenizer.load(checkpoint.directory)
    size = min(amount.num_tokens, checkpoint.config.max_positions)
    pieces: list[Text] = []
    try:
        for path in paths:
            tokens = asyncio.run(tokenizer.encode(path.read_text(encoding="utf-8")))
            cuts = (tokens[first : first + size] for first in range(0, len(tokens), size))
            pieces += [Text(tuple(piece)) for piece in cuts if len(piece) > 1]
    finally:
        tokenizer.close()
    return pieces


def _described(paths: Sequence[Path]) -> str:
    return f"the text in {', '.join(map(str, paths))}"


def as_json(texts: Sequence[Text]) -> Stored:
    """What `texts_of` reads."""
    return {"texts": [{"tokens": text.tokens, "num_given": text.num_given} for text in texts]}


def texts_of(found: Stored) -> list[Text]:
    """From what `as_json` has made."""
    return [Text(tuple(each["tokens"]), each["num_given"]) for each in found["texts"]]


def _write(
    checkpoint: Checkpoint, amount: Amount, device: torch.device, advance: Advance
) -> list[Text]:
    size = min(amount.num_tokens, checkpoint.config.max_positions)
    try:
        wish = Wish(max_model_len=size)
        loaded = load(checkpoint.directory, wish, device, lambda done, total: None)
    except ModelDoesNotFit as failure:
        raise ModelDoesNotFit(
            f"{failure}; or give --calibration FILE: without texts of its own making it is "
            "quantized with one layer in memory at a time"
        ) from failure
    tokenizer = Tokenizer.load(checkpoint.directory)
    try:
        stop_tokens = frozenset(read_defaults(checkpoint.directory, tokenizer).stop_tokens)
        prompts = asyncio.run(_prompts(checkpoint, tokenizer, stop_tokens, amount, size))
    finally:
        tokenizer.close()
    return generate(loaded.decoder, prompts, Manner(size, amount.seed), advance)


async def _prompts(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    stop_tokens: frozenset[int],
    amount: Amount,
    size: int,
) -> list[list[int]]:
    """Chats that leave room for an answer in so many tokens, and for the rest free texts."""
    chance = random.Random(amount.seed)
    first = first_token(checkpoint.directory, stop_tokens)
    chats = await _questions(checkpoint.directory, tokenizer, amount, chance)
    asked = [chat for chat in chats if len(chat) < size]
    free = [
        [chance.randrange(checkpoint.config.vocab_size) if first is None else first]
        for _ in range(amount.num_texts - len(asked))
    ]
    return [*asked, *free]


async def _questions(
    directory: Path, tokenizer: Tokenizer, amount: Amount, chance: random.Random
) -> list[list[int]]:
    """As chats, for half of the texts; none if the model does not say what it can answer."""
    asked = questions(directory, amount.num_texts // 2, chance)
    template = find_template(directory) if asked else None
    if template is None:
        return []
    await template.compile()
    try:
        chats = [await template.render([{"role": "user", "content": each}]) for each in asked]
    except CannotRender as error:
        raise Unusable(
            f"the model's chat template refuses a question without anything else: {error}; give "
            "--calibration FILE"
        ) from error
    else:
        return [await tokenizer.encode(chat, add_special=False) for chat in chats]
    finally:
        await template.close()


def first_token(directory: Path, stop_tokens: frozenset[int]) -> int | None:
    """What stands before a text; None: this model has no such token."""
    begin = read_object(directory / "config.json").get("bos_token_id")
    return begin if isinstance(begin, int) else min(stop_tokens, default=None)


def _key(checkpoint: Checkpoint, amount: Amount) -> str:
    parts = [_VERSION, checkpoint.fingerprint(), asdict(amount)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _expect_enough(
    count: int, what: str, remedy: str = "give longer texts, or more of them"
) -> None:
    if count < MIN_TOKENS:
        raise TooShort(
            f"{what} has {count} tokens; expected at least {MIN_TOKENS}, and better 50,000: "
            f"{remedy}"
        )
