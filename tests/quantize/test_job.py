"""A job from the dense model to the folder of the quantized one."""

import json
from pathlib import Path

import pytest
import torch

from aweigh_quantize.calibration import TooShort
from aweigh_quantize.checkpoint import read_checkpoint
from aweigh_quantize.job import run
from aweigh_quantize.methods import rtn
from aweigh_quantize.methods.grid import Grid
from aweigh_quantize.recipe import RecipeError
from aweigh_quantize.result import write_result
from aweigh_quantize.unfinished import Occupied
from aweigh_runtime.failures import UnsupportedModel
from tests.quantize.jobs import Silent, job, tensors, weights

MATRICES = 7  # of a layer


def test_every_matrix_of_a_layer_is_quantized_and_all_else_is_as_it_was(
    cut: Path, tmp_path: Path
) -> None:
    found = run(job(cut, tmp_path / "out"), Silent())
    dense, stored, quantized = (
        tensors(cut),
        tensors(tmp_path / "out"),
        weights(tmp_path / "out", cut),
    )
    assert len(quantized) == 2 * MATRICES
    for module, weight in quantized.items():
        expected = rtn.quantize(dense[f"{module}.weight"].float(), Grid(bits=4)).dense()
        assert torch.equal(weight.dense(), expected)
    kept = [name for name in dense if name.removesuffix(".weight") not in quantized]
    assert all(torch.equal(dense[name], stored[name]) for name in kept)
    assert 4.1 < found.sizes.bits < 4.3
    assert found.sizes.written < found.sizes.dense


def test_what_is_no_weight_comes_along(cut: Path, tmp_path: Path) -> None:
    run(job(cut, tmp_path / "out"), Silent())
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (cut / name).read_bytes()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "KL" in card
    assert f"file://{cut}" in card
    assert "base_model" not in card  # it is no hub's


def test_gptq_loses_less_than_rounding_to_the_nearest(cut: Path, tmp_path: Path) -> None:
    nearest = run(job(cut, tmp_path / "rtn"), Silent())
    better = run(job(cut, tmp_path / "gptq", scheme="gptq"), Silent())
    assert better.loss.excess(nearest.loss).low > 0


def test_modules_that_are_kept_stay_dense(cut: Path, tmp_path: Path) -> None:
    run(job(cut, tmp_path / "out", keep=("down_proj", "model.layers.1.self_attn.*")), Silent())
    quantized = weights(tmp_path / "out", cut)
    assert len(quantized) == 2 * MATRICES - 2 - 4
    assert not any(module.endswith("down_proj") for module in quantized)


def test_weights_are_spread_over_shards_that_an_index_lists(cut: Path, tmp_path: Path) -> None:
    write_result(tmp_path / "many", read_checkpoint(cut), [], {}, shard_bytes=1 << 20)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    one, many = tensors(cut), tensors(tmp_path / "many")
    assert one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_an_unknown_module_to_keep_is_refused(cut: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--keep is dwon_proj, which is no module"):
        run(job(cut, tmp_path / "out", keep=("dwon_proj",)), Silent())


def test_keeping_everything_is_refused(cut: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"--keep is \*, which leaves nothing to quantize"):
        run(job(cut, tmp_path / "out", keep=("*",)), Silent())
    assert list(tmp_path.iterdir()) == []


def test_groups_that_do_not_divide_a_matrix_are_refused_at_once(cut: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--group-size is 96; expected a divisor of the 256"):
        run(job(cut, tmp_path / "out", group_size=96), Silent())
    assert list(tmp_path.iterdir()) == []


def test_too_little_text_is_refused_with_its_length(cut: Path, tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("A Pod is the smallest unit. " * 20)
    with pytest.raises(TooShort, match=r"has 1\d\d tokens; expected at least 512"):
        run(job(cut, tmp_path / "out", [text], scheme="gptq"), Silent())
    assert list(tmp_path.iterdir()) == [text]  # nothing stands in the way of the right command


def test_the_users_text_is_calibrated_on(cut: Path, tmp_path: Path) -> None:
    text = tmp_path / "long.txt"
    text.write_text("A Pod is the smallest unit that Kubernetes deploys. " * 100)
    run(job(cut, tmp_path / "own", [text], scheme="gptq"), Silent())
    run(job(cut, tmp_path / "generated", scheme="gptq"), Silent())
    own, generated = weights(tmp_path / "own", cut), weights(tmp_path / "generated", cut)
    assert any(not torch.equal(own[name].dense(), generated[name].dense()) for name in own)


def test_a_quantized_model_is_refused(cut: Path, tmp_path: Path) -> None:
    run(job(cut, tmp_path / "out"), Silent())
    with pytest.raises(UnsupportedModel, match="is quantized already: gptq 4 bit"):
        run(job(tmp_path / "out", tmp_path / "again"), Silent())


def test_what_exists_is_not_overwritten(cut: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(Occupied, match="which exists already"):
        run(job(cut, tmp_path / "out"), Silent())


def test_the_config_says_how_the_weights_are_stored(cut: Path, tmp_path: Path) -> None:
    run(job(cut, tmp_path / "out", bits=3, group_size=64), Silent())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    said = config["quantization_config"]
    assert (said["quant_method"], said["bits"], said["group_size"]) == ("gptq", 3, 64)
    assert config["hidden_size"] == 256


@pytest.mark.parametrize("scheme", ["awq", "int8"])
def test_a_layer_of_which_all_is_kept_is_passed_over(
    cut: Path, tmp_path: Path, scheme: str
) -> None:
    run(job(cut, tmp_path / "out", scheme=scheme, keep=("model.layers.0.*",)), Silent())
    assert len(weights(tmp_path / "out", cut)) == MATRICES


def test_an_output_without_a_name_is_refused(cut: Path) -> None:
    with pytest.raises(Occupied, match=r"--output is '/'; expected the name of a new folder"):
        run(job(cut, Path("/")), Silent())
