"""Models without weights of their own."""

import shutil
from pathlib import Path

import pytest
import torch

from aweigh_api.number_formats import SchemeName
from aweigh_runtime.failures import InvalidConfiguration, ModelDoesNotFit
from aweigh_runtime.model import building
from aweigh_runtime.model.load import Wish
from aweigh_runtime.model.random_weights import make_up
from tests.runtime.model.checkpoints import new_cache, step, write_family
from tests.runtime.model.families import FAMILIES


@pytest.fixture
def shape(helmsman: Path, tmp_path: Path) -> Path:
    """A configuration alone."""
    shutil.copy(helmsman / "config.json", tmp_path)
    return tmp_path


def test_weights_are_the_same_each_time_and_no_two_alike(shape: Path, cpu: torch.device) -> None:
    one, other = (make_up(shape, Wish(dtype="fp32"), cpu).decoder for _ in range(2))
    for name, weight in one.weights.items():
        assert torch.equal(weight, other.weights[name]), name
    assert not torch.equal(
        one.weights["layers.0.mlp.down.weight"], one.weights["layers.1.mlp.down.weight"]
    )


def test_another_seed_gives_other_weights(shape: Path, cpu: torch.device) -> None:
    one, other = (make_up(shape, Wish(dtype="fp32"), cpu, seed).decoder for seed in (0, 1))
    name = "layers.0.mlp.down.weight"
    assert not torch.equal(one.weights[name], other.weights[name])


def test_such_a_model_computes_and_takes_what_was_announced(shape: Path, cpu: torch.device) -> None:
    made = make_up(shape, Wish(dtype="fp32"), cpu)
    logits = step(made.decoder, new_cache(made.decoder, 1), [(0, 0, [1, 2, 3])])
    assert logits.isfinite().all()
    assert logits.std() > 0
    assert made.weight_bytes == sum(each.nbytes for each in made.decoder.weights.values())


@pytest.mark.parametrize(("scheme", "weight_bytes"), [("fp8", 1), ("int8", 1), ("int4", 0.515625)])
def test_every_matrix_of_the_layers_may_be_quantized(
    scheme: SchemeName, weight_bytes: float, shape: Path, cpu: torch.device
) -> None:
    made = make_up(shape, Wish(dtype="fp32", scheme=scheme), cpu)
    assert made.quantization is not None
    assert made.quantization.scheme == scheme
    decoder = made.decoder
    parts = ("attention.qkv", "attention.out", "mlp.gate_up", "mlp.down")
    layers = range(decoder.config.num_layers)
    assert set(decoder.matrices) == {f"layers.{i}.{part}.weight" for i in layers for part in parts}
    dense = sum(each.nbytes for each in decoder.weights.values())
    # Queries, keys and values of 64 numbers in 4, 2 and 2 heads; gates of 768.
    values = len(layers) * 256 * (512 + 256 + 2 * 768 + 768)
    assert made.weight_bytes == dense + values * weight_bytes


@pytest.mark.parametrize("scheme", ["fp8", "int8", "int4"])
def test_quantized_ones_compute_the_same_each_time_and_numbers_like_dense_ones(
    scheme: SchemeName, shape: Path, cpu: torch.device
) -> None:
    found = []
    for each in ("none", scheme, scheme):
        decoder = make_up(shape, Wish(dtype="fp32", scheme=each), cpu).decoder
        found.append(step(decoder, new_cache(decoder, 1), [(0, 0, [1, 2, 3])]))
    dense, one, other = found
    assert torch.equal(one, other)
    assert one.isfinite().all()
    assert 0.8 < one.std() / dense.std() < 1.25


def test_experts_are_quantized_and_routers_are_not(tmp_path: Path, cpu: torch.device) -> None:
    model_type, sizes = FAMILIES["Mixtral"]
    directory = write_family(tmp_path, model_type, **sizes)
    decoder = make_up(directory, Wish(dtype="fp32", scheme="int4"), cpu).decoder
    assert {"layers.0.mlp.gate_up", "layers.0.mlp.down"} <= set(decoder.matrices)
    assert {"layers.0.mlp.router.weight", "head.weight"} <= set(decoder.weights)
    assert step(decoder, new_cache(decoder, 1), [(0, 0, [1, 2, 3])]).isfinite().all()


def test_exact_ones_take_the_memory_of_dense_ones(shape: Path, cpu: torch.device) -> None:
    dense, exact = (
        make_up(shape, Wish(dtype="fp32", scheme=scheme, exact=True), cpu)
        for scheme in ("none", "int4")
    )
    assert dense.weight_bytes == exact.weight_bytes


def test_a_scheme_that_is_not_made_up_is_refused(shape: Path, cpu: torch.device) -> None:
    with pytest.raises(InvalidConfiguration, match=r"gptq, and .* expected fp8, int8, int4, or"):
        make_up(shape, Wish(scheme="gptq"), cpu)


def test_a_shape_that_does_not_fit_is_refused(
    shape: Path, cpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "available_bytes", lambda device: 1000)
    with pytest.raises(ModelDoesNotFit, match="give the pod more memory"):
        make_up(shape, Wish(), cpu)
