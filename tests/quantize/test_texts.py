"""Texts that a model writes of itself."""

from pathlib import Path

import pytest
import torch

import aweigh_runtime
from aweigh_quantize.calibration import Amount, TooShort, from_model
from aweigh_quantize.checkpoint import read_checkpoint

HELMSMAN = Path(aweigh_runtime.__file__).parent / "builtin" / "helmsman-8m"


def test_no_text_is_longer_than_asked_however_long_a_chat_begins(tmp_path: Path) -> None:
    for num_tokens in (16, 18):
        amount = Amount(num_texts=400, num_tokens=num_tokens)
        texts = from_model(
            read_checkpoint(HELMSMAN), amount, torch.device("cpu"), tmp_path, lambda: None
        )
        assert len(texts) == 400
        assert all(0 < text.num_given < len(text.tokens) <= num_tokens for text in texts)


def test_texts_that_are_too_short_to_measure_anything_are_refused() -> None:
    with pytest.raises(TooShort, match="--text-tokens is 2; expected at least 16"):
        Amount(num_texts=300, num_tokens=2)
