"""Training what was quantized a little, and dividing an average size between matrices."""

import re
from pathlib import Path

import pytest

from aweigh_kernels.int_weight import IntWeight
from aweigh_quantize.job import run
from aweigh_quantize.recipe import RecipeError
from tests.quantize.jobs import Silent, job, tensors, weights


@pytest.mark.parametrize(
    "recipe",
    [{"scheme": "gptq", "bits": 2, "group_size": 64}, {"scheme": "gptq", "sparse": True}],
    ids=["2 bit", "2:4"],
)
def test_training_wins_back_much_of_what_was_lost(
    cut: Path, tmp_path: Path, recipe: dict[str, object]
) -> None:
    lost = run(job(cut, tmp_path / "plain", **recipe), Silent()).loss
    trained = run(job(cut, tmp_path / "trained", recover=True, **recipe), Silent()).loss
    assert trained.excess(lost).high < 0
    plain, changed = tensors(tmp_path / "plain"), tensors(tmp_path / "trained")
    assert plain.keys() == changed.keys()
    assert {name: values.shape for name, values in plain.items()} == {
        name: values.shape for name, values in changed.items()
    }


def test_training_again_gives_the_same_model(cut: Path, tmp_path: Path) -> None:
    recipe = {"scheme": "rtn", "bits": 3, "recover": True}
    for name in ("one", "other"):
        run(job(cut, tmp_path / name, **recipe), Silent())
    stored = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "other")]
    assert stored[0] == stored[1]


def test_matrices_share_a_budget_by_what_they_lose(cut: Path, tmp_path: Path) -> None:
    found = run(job(cut, tmp_path / "out", scheme="rtn", group_size=64, budget=4.5), Silent())
    assert 4.2 < found.sizes.bits <= 4.5
    widths = {
        weight.bits
        for weight in weights(tmp_path / "out", cut).values()
        if isinstance(weight, IntWeight)
    }
    assert len(widths) > 1


def test_a_budget_that_nothing_fits_is_refused_with_the_least(cut: Path, tmp_path: Path) -> None:
    said = r"--budget is 1\.5 bits; expected at least 2\.\d\d, which 2 bits and their scales take"
    with pytest.raises(RecipeError, match=said):
        run(job(cut, tmp_path / "out", scheme="rtn", budget=1.5), Silent())
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
    cut: Path, tmp_path: Path, recipe: dict[str, object], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        job(cut, tmp_path / "out", **recipe)


def test_the_names_of_both_stand_in_the_card(cut: Path, tmp_path: Path) -> None:
    run(job(cut, tmp_path / "out", scheme="rtn", budget=4.5, recover=True), Silent())
    card = (tmp_path / "out" / "README.md").read_text()
    assert re.search(r"4\.5 bits on average", card)
