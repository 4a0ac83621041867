"""What `aweigh quantize` writes as compressed-tensors means the same to transformers as to us."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from aweigh_quantize.calibration import from_model
from aweigh_quantize.checkpoint import read_checkpoint
from aweigh_quantize.job import run
from aweigh_quantize.spelling import recipe_of
from tests.quantize.jobs import AMOUNT, CPU, Silent, job_of
from tests.quantize.whole import loaded, logits


@pytest.mark.parametrize("word", ["int8-weights", "fp8-weights", "nvfp4"])
def test_a_written_model_says_the_same_in_transformers(
    word: str, cut: Path, tmp_path: Path
) -> None:
    """Theirs rounds weights to bf16, nearly as coarse as 8 bits and finer than the rest."""
    out = tmp_path / "out"
    run(job_of(cut, out, recipe_of(word)), Silent())
    (text, *_) = from_model(
        read_checkpoint(cut), AMOUNT.held_out(), CPU, cut.parent / "cache", Silent().advance
    )
    theirs, tokens = AutoModelForCausalLM.from_pretrained(out), torch.tensor([text.tokens])
    with torch.inference_mode():
        theirs(tokens[:, :1])  # some weights are unpacked by the first call
        torch.nn.Module.float(theirs)  # its own float() refuses quantized models
        expected = theirs(tokens).logits[0]
    found, dense = logits(loaded(out), text.tokens), logits(loaded(cut), text.tokens)
    apart, moved = (found - expected).abs().mean(), (found - dense).abs().mean()
    assert apart < 0.6 * moved
