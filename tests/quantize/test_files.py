"""What is written is what was measured: files are loaded as a server loads them."""

from pathlib import Path

import pytest

from aweigh_quantize.calibration import from_model
from aweigh_quantize.checkpoint import read_checkpoint
from aweigh_quantize.evaluation import evaluate
from aweigh_quantize.job import run
from aweigh_quantize.spelling import recipe_of
from tests.quantize.jobs import AMOUNT, CPU, Silent, job_of
from tests.quantize.whole import loaded, logits

WORDS = [
    "rtn-8-channel",
    "rtn-3-asym",
    "gptq-4",
    "gptq-4-g64-reorder",
    "gptq-2-g32-asym",
    "gptq-4-2:4",
    "awq",
    "awq-sym",
    "int8",
    "int8-static",
    "int8-weights",
    "fp8",
    "fp8-tensor",
    "fp8-block",
    "fp8-static",
    "fp8-weights",
    "nvfp4",
    "nvfp4-token",
]


@pytest.mark.parametrize("word", WORDS)
def test_a_loaded_model_loses_what_was_measured(word: str, cut: Path, tmp_path: Path) -> None:
    found = run(job_of(cut, tmp_path / "out", recipe_of(word)), Silent())
    texts = from_model(
        read_checkpoint(cut), AMOUNT.held_out(), CPU, cut.parent / "cache", Silent().advance
    )
    dense, quantized = loaded(cut), loaded(tmp_path / "out")
    again = evaluate(texts, [(logits(dense, t.tokens), logits(quantized, t.tokens)) for t in texts])
    assert quantized.matrices
    # Activations that are rounded fall to the other side here and there, in the last bits.
    assert again.kl.value == pytest.approx(found.loss.kl.value, rel=0.02)
    assert found.loss.kl.value > 0
