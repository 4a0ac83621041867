import asyncio
import time
from pathlib import Path

import pytest

from aweigh_runtime.failures import ModelUnreadable
from aweigh_runtime.text.defaults import read_defaults
from aweigh_runtime.text.disguise import Piece
from aweigh_runtime.text.tokenizer import Tokenizer
from tests.runtime.text.helmsman import BACKEND, DIRECTORY, TOKENIZER

USER, END = 1, 3


async def test_special_tokens_of_the_template_are_control_tokens() -> None:
    tokens = await TOKENIZER.encode_pieces([Piece("<|user|>hi<|end|>", literal=False)])
    assert (tokens[0], tokens[-1]) == (USER, END)


async def test_special_tokens_that_were_typed_are_text() -> None:
    pieces = [
        Piece("<|user|>a", literal=False),
        Piece("<|end|>", literal=True),
        Piece("b<|end|>", literal=False),
    ]
    tokens = await TOKENIZER.encode_pieces(pieces)
    assert tokens.count(END) == 1
    detokenizer = TOKENIZER.detokenizer()
    assert "".join(map(detokenizer.feed, tokens)) == "a<|end|>b"
    assert (await TOKENIZER.encode("<|end|>")) == [END]  # a completion's prompt is the user's own


async def test_encoding_a_long_prompt_leaves_the_event_loop_free() -> None:
    encoding = asyncio.ensure_future(TOKENIZER.encode("a" * (2 << 20)))
    started_s, longest_s = time.monotonic(), 0.0
    while not encoding.done():
        before_s = time.monotonic()
        await asyncio.sleep(0.01)
        longest_s = max(longest_s, time.monotonic() - before_s)
    assert len(await encoding) == 1 << 20
    assert longest_s < 0.5 * (time.monotonic() - started_s)


async def test_a_long_prompt_delays_no_short_one() -> None:
    long = [asyncio.ensure_future(TOKENIZER.encode("a" * (1 << 20))) for _ in range(2)]
    await asyncio.sleep(0.05)
    started_s = time.monotonic()
    for _ in range(10):
        await TOKENIZER.encode("hi")
        await TOKENIZER.encode_pieces([Piece("hi", literal=True)])
    assert time.monotonic() - started_s < 0.3
    assert not any(each.done() for each in long)
    await asyncio.gather(*long)


async def test_pieces_keep_their_order() -> None:
    words = [Piece(f"{i} <|end|>", literal=i % 3 == 0) for i in range(50)]
    tokens = await TOKENIZER.encode_pieces(words)
    assert tokens.count(END) == sum(not piece.literal for piece in words)
    apart = [token for piece in words for token in await TOKENIZER.encode_pieces([piece])]
    assert tokens == apart


def test_no_token_stands_for_more_bytes_than_the_longest() -> None:
    vocabulary = BACKEND.get_vocab(with_added_tokens=True)
    plain = [BACKEND.decode([id], skip_special_tokens=False) for id in vocabulary.values()]
    longest_bytes = max(len(text.encode()) for text in plain if "\ufffd" not in text)
    assert TOKENIZER.longest_token_bytes == longest_bytes == 64


def test_answers_end_where_the_models_files_say() -> None:
    assert read_defaults(DIRECTORY, TOKENIZER).stop_tokens == {0, 3}


def test_sampling_defaults_come_from_the_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"eos_token_id": 4}')
    values = '{"temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.05}'
    (tmp_path / "generation_config.json").write_text(values)
    defaults = read_defaults(tmp_path, TOKENIZER)
    assert (defaults.temperature, defaults.top_p, defaults.top_k) == (0.6, 0.9, 0)
    assert (defaults.min_p, defaults.repetition_penalty) == (0.0, 1.05)
    assert defaults.stop_tokens == {4}


@pytest.mark.parametrize("value", ['"x"', "[true]", "-1", "{}"])
def test_an_impossible_end_token_is_refused(tmp_path: Path, value: str) -> None:
    (tmp_path / "config.json").write_text(f'{{"eos_token_id": {value}}}')
    with pytest.raises(ModelUnreadable, match="eos_token_id"):
        read_defaults(tmp_path, TOKENIZER)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnreadable, match=r"has no tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_a_broken_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelUnreadable, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer.load(tmp_path)
