"""Training what was quantized a little."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aweigh_quantize import quantizer
from aweigh_quantize.calibration import Amount, TooShort
from aweigh_quantize.job import run
from aweigh_quantize.quantizer import Work
from aweigh_quantize.recipe import Recipe, RecipeError, Scheme
from aweigh_quantize.recovery import Training
from aweigh_quantize.trained_layer import Rates
from tests.quantize.jobs import Silent, job, job_of, tensors

ENOUGH = Amount(num_texts=16, num_tokens=192)
SHORT = Training(num_steps=100, num_tokens=1024)
LITTLE = Amount(num_texts=16, num_tokens=80)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("sparse", [False, True], ids=["2 bit", "2:4"])
def test_training_wins_back_some_of_what_was_lost(cut: Path, tmp_path: Path, sparse: bool) -> None:
    found = {}
    for name in ("plain", "trained"):
        bits = 4 if sparse else 2
        recipe = Recipe(scheme="gptq", bits=bits, sparse=sparse, recover=name == "trained")
        wanted = replace(job_of(cut, tmp_path / name, recipe), amount=ENOUGH, training=SHORT)
        found[name] = run(wanted, Silent()).loss
    assert found["trained"].excess(found["plain"]).low > 0
    plain, changed = tensors(tmp_path / "plain"), tensors(tmp_path / "trained")
    assert plain.keys() == changed.keys()
    assert {name: values.shape for name, values in plain.items()} == {
        name: values.shape for name, values in changed.items()
    }


def test_numbers_scales_and_norms_all_learn_at_whatever_rates(
    cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantizer, "Rates", lambda: Rates(numbers=0.1, scales=0.1, norms=0.1))
    plain = replace(job_of(cut, tmp_path / "plain", Recipe(bits=3)), amount=LITTLE)
    run(plain, Silent())
    training = Training(num_steps=2, num_tokens=512)
    trained = replace(plain, out=tmp_path / "out", recipe=Recipe(bits=3, recover=True))
    run(replace(trained, training=training), Silent())
    before, after = tensors(plain.out), tensors(trained.out)
    for ending in ("qweight", "scales", "layernorm.weight"):
        learned = [name for name in before if name.endswith(ending)]
        assert learned
        assert not any(torch.equal(before[name], after[name]) for name in learned), ending


def test_training_ends_in_the_same_bytes_killed_or_not_in_memory_or_not(
    cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Exception):
        pass

    class Impatient(Silent):
        def advance(self) -> None:
            super().advance()
            if self.parts[-1][0] == "steps of training" and self.steps_of_part() == 2:
                raise Stopped

    recipe = Recipe(bits=3, recover=True)
    training = Training(num_steps=3, num_tokens=512)
    whole = replace(job_of(cut, tmp_path / "whole", recipe), amount=LITTLE, training=training)
    loss = run(whole, Silent()).loss
    plain = replace(job_of(cut, tmp_path / "plain", Recipe(bits=3)), amount=LITTLE)
    assert loss.excess(run(plain, Silent()).loss).value != 0

    monkeypatch.setattr(quantizer, "available_bytes", lambda device: 0)
    out = replace(whole, out=tmp_path / "out")
    with pytest.raises(Stopped):
        run(out, Impatient())
    assert (tmp_path / "out.partial" / "steps-000002").is_dir()
    half_written = tmp_path / "out.partial" / "steps-000003.unfinished"  # by one that was killed
    half_written.mkdir()
    shown = Silent()
    run(out, shown)
    assert not half_written.exists()
    assert ("layers", 2, 2) in shown.parts
    assert ("steps of training", 3, 2) in shown.parts
    for name in ("model.safetensors", "config.json"):
        assert (out.out / name).read_bytes() == (whole.out / name).read_bytes()


def test_what_is_damaged_of_rounding_training_and_layers_is_made_again(
    cut: Path, tmp_path: Path
) -> None:
    class Stopped(Exception):
        pass

    class Impatient(Silent):
        def begin(self, what: str, total: int, done: int = 0) -> None:
            super().begin(what, total, done)
            if what == "writing":
                raise Stopped

    recipe, training = Recipe(bits=3, recover=True), Training(num_steps=2, num_tokens=512)
    whole = replace(job_of(cut, tmp_path / "whole", recipe), amount=LITTLE, training=training)
    run(whole, Silent())
    out = replace(whole, out=tmp_path / "out")
    with pytest.raises(Stopped):
        run(out, Impatient())
    for lost in ("rounded-0000", "steps-000002/0001", "layer-0001"):
        damaged = tmp_path / "out.partial" / f"{lost}.safetensors"
        damaged.write_bytes(damaged.read_bytes()[:-1])

    shown = Silent()
    run(out, shown)
    assert ("layers", 2, 1) in shown.parts
    assert ("steps of training", 2, 0) in shown.parts
    assert ("trained layers", 2, 0) in shown.parts
    name = "model.safetensors"
    assert (out.out / name).read_bytes() == (whole.out / name).read_bytes()


def test_of_files_only_what_is_not_held_out_is_trained_on(
    cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Exception):
        pass

    given: list[Work] = []

    def stop(work: Work, *others: object) -> None:
        given.append(work)
        raise Stopped

    monkeypatch.setattr("aweigh_quantize.job.Quantizer", stop)
    text = tmp_path / "text.txt"
    lines = (
        f"Pod {number} runs {number % 7} containers on node {number}." for number in range(4000)
    )
    text.write_text("\n".join(lines))
    wanted = job(cut, tmp_path / "out", [text], bits=3, recover=True)
    with pytest.raises(Stopped):
        run(replace(wanted, amount=LITTLE), Silent())
    trained = {each.tokens for each in given[0].to_train_on}
    assert trained > {each.tokens for each in given[0].calibration}
    held_out = [each for texts in given[0].held_out.values() for each in texts]
    assert held_out
    assert trained.isdisjoint(each.tokens for each in held_out)


@pytest.mark.parametrize("scheme", ["awq", "gptq"])
def test_what_was_not_trained_is_stored_as_it_was_rounded(
    cut: Path, tmp_path: Path, scheme: Scheme
) -> None:
    """In act order without static groups, too: a file holds columns in another order.

    So are the scales of a cache in fp8.
    """
    recipe = Recipe(scheme=scheme, static_groups=False, kv_cache="fp8")
    plain = replace(job_of(cut, tmp_path / "plain", recipe), amount=LITTLE)
    run(plain, Silent())
    idle = replace(
        plain,
        out=tmp_path / "idle",
        recipe=replace(recipe, recover=True),
        training=Training(num_steps=0),
    )
    run(idle, Silent())
    before, after = tensors(plain.out), tensors(idle.out)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_too_little_to_train_on_is_refused(cut: Path, tmp_path: Path) -> None:
    said = r"--recover has [\d,]+ tokens to train on; expected at least 32,768: raise --num-texts"
    with pytest.raises(TooShort, match=said):
        run(job(cut, tmp_path / "out", bits=3, recover=True), Silent())
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
