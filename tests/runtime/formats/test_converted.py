"""NVFP4 that becomes FP8 while it is loaded."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from aweigh_kernels.fp8_weight import Fp8Weight
from aweigh_kernels.weight import prepare
from aweigh_quantize.methods.fp4 import quantize
from aweigh_runtime.failures import InvalidConfiguration
from aweigh_runtime.formats.choice import choose, kept_bytes
from aweigh_runtime.formats.converted import ConvertedLayout, to_fp8_blocks
from aweigh_runtime.formats.fp4_layout import MODELOPT, Fp4Layout
from aweigh_runtime.formats.layout import Layout
from aweigh_runtime.formats.modules import in_layer
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.load import Wish, load
from tests.kernels.held import held_bytes
from tests.kernels.weights import Draw
from tests.runtime.model.checkpoints import (
    load_decoder,
    new_cache,
    random_tokens,
    step,
    write_checkpoint,
)
from tests.runtime.model.quantized import Quantize, Twins, quantized_twins

NVFP4 = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}
PROMPT = random_tokens(1, 40)


@pytest.mark.parametrize("shape", [(128, 128), (130, 272), (1, 16)], ids=str)
def test_weights_are_half_a_step_away_at_most(shape: tuple[int, int]) -> None:
    weight = Draw(sum(shape)).fp4(*shape)
    dense, found = weight.dense(), to_fp8_blocks(weight)
    assert found.shape == shape
    widest = found.scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[: shape[0], : shape[1]]
    # 3 bits behind the point: half a step is 1/16; below 2^-6 steps stay at 2^-9.
    bound = (dense.abs() / 16).maximum(2.0**-10 * widest)
    assert bool(((found.dense() - dense).abs() <= bound * 1.001).all())


def test_a_block_of_zeros_stays_one() -> None:
    weight = Draw().fp4(256, 256)
    weight.q[:128, 128:] = 0
    assert bool((to_fp8_blocks(weight).dense()[:128, 128:] == 0).all())


def test_many_rows_are_converted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = Draw().fp4(600, 64)
    whole = to_fp8_blocks(weight)
    monkeypatch.setattr("aweigh_runtime.formats.converted._AT_ONCE", 200 * 64)
    parts = to_fp8_blocks(weight)
    assert torch.equal(parts.dense(), whole.dense())


def test_what_is_announced_is_kept() -> None:
    stored = Fp4Layout(spelling=MODELOPT, activations=False)
    weight = replace(Draw().fp4(512, 1024), global_scale=torch.tensor([[0.5]]).double())
    layout = ConvertedLayout(stored)
    read = layout.read(layout.write(weight), 512, 1024)
    assert isinstance(read, Fp8Weight)
    held = held_bytes(prepare(read, torch.bfloat16))
    assert held == pytest.approx(kept_bytes(layout, 512, 1024), rel=0.1)


@pytest.fixture
def nvfp4(tmp_path: Path) -> Twins:
    """Its activations would be NVFP4, too."""
    layout = Fp4Layout(spelling=MODELOPT, activations=True)
    scale = torch.tensor(2.0**-9, dtype=torch.float64)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    source = write_checkpoint(tmp_path / "source", **sizes)

    def rule(module: str) -> tuple[Layout, Quantize] | None:
        return (layout, partial(quantize, activation=scale)) if in_layer(module) else None

    return quantized_twins(source, tmp_path, rule, NVFP4)


def test_a_checkpoint_of_nvfp4_is_served_in_fp8_when_that_is_asked_for(nvfp4: Twins) -> None:
    wish = Wish(dtype="fp32", scheme="fp8")
    loaded = load(nvfp4.quantized, wish, torch.device("cpu"), lambda done, total: None)
    assert loaded.quantization is not None
    assert loaded.quantization.scheme == "fp8"
    assert "brought to fp8" in loaded.quantization.description

    def logits(decoder: Decoder) -> torch.Tensor:
        return step(decoder, new_cache(decoder, 1), [(0, 0, PROMPT)])[0]

    expected = logits(load_decoder(nvfp4.dense))
    difference = (logits(loaded.decoder) - expected).norm() / expected.norm()
    assert 1e-4 < difference < 0.5  # small models with random weights magnify it


def test_other_schemes_are_refused_with_both_that_there_are(nvfp4: Twins) -> None:
    with pytest.raises(InvalidConfiguration, match="expected auto or nvfp4, or fp8, to which they"):
        choose(nvfp4.quantized, "int8")
