"""Training what was quantized a little, and dividing an average size between matrices."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aweigh_kernels.int_weight import IntWeight
from aweigh_quantize.calibration import Amount, TooShort
from aweigh_quantize.job import run
from aweigh_quantize.recipe import Recipe, RecipeError
from tests.quantize.jobs import Silent, job, job_of, tensors, weights

ENOUGH = Amount(num_texts=128, num_tokens=192)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("sparse", [False, True], ids=["2 bit", "2:4"])
def test_training_wins_back_some_of_what_was_lost(cut: Path, tmp_path: Path, sparse: bool) -> None:
    found = {}
    for name in ("plain", "trained"):
        bits = 4 if sparse else 2
        recipe = Recipe(scheme="gptq", bits=bits, sparse=sparse, recover=name == "trained")
        wanted = replace(job_of(cut, tmp_path / name, recipe), amount=ENOUGH)
        found[name] = run(wanted, Silent()).loss
    assert found["trained"].excess(found["plain"]).high < 0
    plain, changed = tensors(tmp_path / "plain"), tensors(tmp_path / "trained")
    assert plain.keys() == changed.keys()
    assert {name: values.shape for name, values in plain.items()} == {
        name: values.shape for name, values in changed.items()
    }


def test_too_little_to_train_on_is_refused(cut: Path, tmp_path: Path) -> None:
    said = r"--recover has \d+ tokens to train on; expected at least 16,384: raise --num-texts"
    with pytest.raises(TooShort, match=said):
        run(job(cut, tmp_path / "out", bits=3, recover=True), Silent())
    assert not (tmp_path / "out").exists()


def test_matrices_share_a_budget_by_what_they_lose(cut: Path, tmp_path: Path) -> None:
    found = run(job(cut, tmp_path / "out", scheme="rtn", group_size=64, budget=4.5), Silent())
    assert 4.2 < found.sizes.bits <= 4.5
    widths = {
        weight.bits
        for weight in weights(tmp_path / "out", cut).values()
        if isinstance(weight, IntWeight)
    }
    assert len(widths) > 1


def test_a_budget_loses_less_than_the_same_size_spent_evenly(cut: Path, tmp_path: Path) -> None:
    even = run(job(cut, tmp_path / "even", scheme="rtn", group_size=32), Silent())
    found = run(job(cut, tmp_path / "out", scheme="rtn", budget=even.sizes.bits), Silent())
    assert found.sizes.matrices <= even.sizes.matrices
    assert found.loss.excess(even.loss).value > 0
    kinds = {
        (weight.bits, weight.group)
        for weight in weights(tmp_path / "out", cut).values()
        if isinstance(weight, IntWeight)
    }
    assert len({group for _, group in kinds}) > 1


def test_a_budget_that_nothing_fits_is_refused_with_the_least(cut: Path, tmp_path: Path) -> None:
    said = r"--budget is 2 bits; expected at least 2\.\d\d, which 2 bits and their scales take"
    with pytest.raises(RecipeError, match=said):
        run(job(cut, tmp_path / "out", budget=2.0), Silent())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"scheme": "fp8", "recover": True}, "--recover with --scheme fp8"),
        ({"scheme": "int8", "budget": 4.5}, "--budget with --scheme int8"),
        ({"scheme": "gptq", "sparse": True, "budget": 4.5}, "--budget with .* --sparse 2:4"),
    ],
)
def test_what_cannot_be_trained_or_divided_is_refused(
    cut: Path, tmp_path: Path, recipe: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        job(cut, tmp_path / "out", **recipe)
