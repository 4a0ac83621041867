"""A model with experts: all are calibrated, the router stays dense, and the result is served."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aweigh_quantize import quantizer, schemes
from aweigh_quantize.calibration import Amount
from aweigh_quantize.job import run
from aweigh_quantize.methods.inputs import Inputs
from aweigh_quantize.recovery import Training
from aweigh_quantize.spelling import recipe_of
from aweigh_runtime.formats.checkpoint import read_quantization
from aweigh_runtime.model.load import Wish, load
from tests.quantize.jobs import CPU, Silent, job, job_of
from tests.runtime.model.checkpoints import SHIPPED, write_family

EXPERTS = {
    "hidden_size": 128, "intermediate_size": 128, "moe_intermediate_size": 128,
    "num_hidden_layers": 2, "num_experts": 4, "num_experts_per_tok": 2, "vocab_size": 8192,
}  # fmt: skip


@pytest.fixture
def experts(tmp_path: Path) -> Path:
    model = write_family(tmp_path / "experts", "qwen3_moe", **EXPERTS)
    for path in (SHIPPED / "helmsman-8m").glob("*token*.json"):
        shutil.copy(path, model / path.name)
    said = {"eos_token_id": 0}
    (model / "generation_config.json").write_text(json.dumps(said))
    return model


@pytest.mark.parametrize("word", ["gptq-4", "awq", "fp8", "fp8-block", "nvfp4"])
def test_a_written_config_says_that_routers_are_dense(
    experts: Path, tmp_path: Path, word: str
) -> None:
    run(job_of(experts, tmp_path / "out", recipe_of(word)), Silent())
    said = read_quantization(tmp_path / "out")
    assert said is not None
    assert said.layout_of("model.layers.1.mlp.gate") is None
    assert said.layout_of("model.layers.1.mlp.experts.0.gate_proj") is not None


@pytest.mark.parametrize("scheme", ["gptq", "awq", "fp8", "int8"])
def test_a_quantized_model_with_experts_is_loaded(
    experts: Path, tmp_path: Path, scheme: str
) -> None:
    run(job(experts, tmp_path / "out", scheme=scheme), Silent())
    decoder = load(tmp_path / "out", Wish(dtype="fp32"), CPU, lambda done, total: None).decoder
    assert len(decoder.matrices["layers.0.mlp.gate_up"]) == 4
    assert "layers.0.mlp.router.weight" in decoder.weights


def test_experts_are_trained_though_a_step_chooses_few(experts: Path, tmp_path: Path) -> None:
    wanted = job(experts, tmp_path / "out", scheme="gptq", bits=3, recover=True)
    training = Training(num_steps=2, num_tokens=64)
    run(replace(wanted, amount=Amount(16, 80), training=training), Silent())
    decoder = load(tmp_path / "out", Wish(dtype="fp32"), CPU, lambda done, total: None).decoder
    assert len(decoder.matrices["layers.0.mlp.gate_up"]) == 4


def test_every_expert_is_calibrated(
    experts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    before = schemes.quantized

    def counting(recipe: object, bits: int, weight: torch.Tensor, inputs: Inputs) -> object:
        seen.append(inputs.num_tokens)
        return before(recipe, bits, weight, inputs)  # type: ignore[arg-type]

    monkeypatch.setattr(quantizer, "quantized", counting)
    run(job(experts, tmp_path / "out", scheme="gptq"), Silent())
    assert min(seen) > 0
    assert len(seen) == 2 * (4 + 3 * 4)
