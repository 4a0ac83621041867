"""Models without weights of their own."""

import shutil
from pathlib import Path

import pytest
import torch

from aweigh_runtime.failures import InvalidConfiguration, ModelDoesNotFit
from aweigh_runtime.model import building
from aweigh_runtime.model.load import Wish
from aweigh_runtime.model.random_weights import make_up
from tests.runtime.model.checkpoints import new_cache, step


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


def test_quantized_weights_are_not_made_up(shape: Path, cpu: torch.device) -> None:
    with pytest.raises(InvalidConfiguration, match="--quantization is fp8"):
        make_up(shape, Wish(scheme="fp8"), cpu)


def test_a_shape_that_does_not_fit_is_refused(
    shape: Path, cpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "available_bytes", lambda device: 1000)
    with pytest.raises(ModelDoesNotFit, match="give the pod more memory"):
        make_up(shape, Wish(), cpu)
