"""Dividing an average size between matrices, by what each loses alone."""

from pathlib import Path
from typing import Any

import pytest

from aweigh_kernels.int_weight import IntWeight
from aweigh_quantize import budget, product_losses
from aweigh_quantize.checkpoint import read_checkpoint
from aweigh_quantize.evaluation import evaluate
from aweigh_quantize.job import run
from aweigh_quantize.methods import rtn
from aweigh_quantize.methods.grid import Grid
from aweigh_quantize.one_layer import layer_matrices
from aweigh_quantize.passage import Passage
from aweigh_quantize.product_losses import Progress, measured
from aweigh_quantize.recipe import Recipe, RecipeError
from aweigh_quantize.texts import Text
from aweigh_runtime.model.mapped import rows_of
from tests.quantize.jobs import CPU, Silent, job, tensors, weights
from tests.quantize.whole import loaded, logits

PART = "products in layers"
TEXTS = [Text(tuple(range(first, first + 40))) for first in (7, 300, 2000)]


def spent_of(folder: Path, dense: Path) -> dict[str, tuple[int, int] | None]:
    """Bits and group of every matrix of a layer, by module; None: it is dense."""
    found = weights(folder, dense)
    modules = [name.removesuffix(".weight") for name in tensors(dense) if "_proj" in name]
    spent: dict[str, tuple[int, int] | None] = dict.fromkeys(modules)
    for module, weight in found.items():
        assert isinstance(weight, IntWeight)
        assert weight.group is not None
        spent[module] = weight.bits, weight.group
    return spent


def test_a_product_loses_what_the_whole_model_loses_with_it_alone_rounded(cut: Path) -> None:
    """Layer by layer, and a product of the first layer through all that come behind it."""
    checkpoint = read_checkpoint(cut)
    places = {checkpoint.module(place): place for place in layer_matrices(checkpoint.config)}
    recipe = Recipe(scheme="rtn", group_size=64, budget=4.5)
    steps = Silent()
    progress = Progress(steps.advance, lambda name, find_out: find_out())
    found = measured(checkpoint, recipe, places, Passage(checkpoint, TEXTS, CPU), progress)
    assert steps.steps == sum(budget.num_advances(checkpoint, frozenset()).values())

    whole = loaded(cut)
    dense = [logits(whole, text.tokens) for text in TEXTS]
    for product in ("layers.0.attention.qkv.weight", "layers.1.mlp.down.weight"):
        parts = [rows_of(whole.weights[product], p) for p in places.values() if p.weight == product]
        before = [part.clone() for part in parts]
        for part in parts:
            part.copy_(rtn.quantize(part.clone(), Grid(bits=4, group=64), "mse").dense())
        rounded = [logits(whole, text.tokens) for text in TEXTS]
        for part, values in zip(parts, before, strict=True):
            part.copy_(values)
        lost = evaluate(TEXTS, zip(dense, rounded, strict=True)).kl.value
        assert lost > 1e-4
        assert found[product]["4 bit g64"] == pytest.approx(lost, rel=1e-2), found[product]


def test_measuring_goes_on_behind_what_an_earlier_run_has_measured(
    cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Exception):
        pass

    class Impatient(Silent):
        def advance(self) -> None:
            super().advance()
            if self.parts[-1][0] == PART and self.steps_of_part() > first:
                raise Stopped

    monkeypatch.setattr(product_losses, "_TOGETHER", 1)
    counts = list(budget.num_advances(read_checkpoint(cut), frozenset()).values())
    first, total = counts[0], sum(counts)
    wanted: dict[str, Any] = {"scheme": "rtn", "group_size": 64, "budget": 4.5}
    run(job(cut, tmp_path / "whole", **wanted), Silent())
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        run(job(cut, out, **wanted), Impatient())

    shown = Silent()
    run(job(cut, out, **wanted), shown)
    assert (PART, total, first) in shown.parts
    assert spent_of(out, cut) == spent_of(tmp_path / "whole", cut)


def test_matrices_share_a_budget_by_what_they_lose(cut: Path, tmp_path: Path) -> None:
    found = run(job(cut, tmp_path / "out", scheme="rtn", group_size=64, budget=4.5), Silent())
    assert 4.2 < found.sizes.bits <= 4.5
    assert len(set(spent_of(tmp_path / "out", cut).values())) > 1


def test_matrices_that_servers_fuse_get_the_same(cut: Path, tmp_path: Path) -> None:
    run(job(cut, tmp_path / "out", scheme="rtn", group_size=64, budget=4.9), Silent())
    spent = spent_of(tmp_path / "out", cut)
    assert len(set(spent.values())) > 1  # else nothing is told apart
    for fused in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")):
        for module in [each for each in spent if each.endswith(fused[0])]:
            others = {spent[module.replace(fused[0], name)] for name in fused}
            assert len(others) == 1, module


def test_a_budget_loses_less_than_the_same_size_spent_evenly(cut: Path, tmp_path: Path) -> None:
    even = run(job(cut, tmp_path / "even", scheme="rtn", bits=3, group_size=32), Silent())
    found = run(job(cut, tmp_path / "out", scheme="rtn", budget=even.sizes.bits), Silent())
    assert found.sizes.matrices <= even.sizes.matrices
    assert found.loss.excess(even.loss).value > 0
    assert len({each and each[1] for each in spent_of(tmp_path / "out", cut).values()}) > 1


def test_a_budget_that_nothing_fits_is_refused_with_the_least(cut: Path, tmp_path: Path) -> None:
    said = r"--budget is 2 bits; expected at least 2\.\d\d, which 2 bits and their scales take"
    with pytest.raises(RecipeError, match=said):
        run(job(cut, tmp_path / "out", budget=2.0), Silent())
    assert not (tmp_path / "out").exists()
