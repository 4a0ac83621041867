"""What is the user's, or the model's: one sentence. What is a mistake of ours: its traceback."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from aweigh_cli.failures import CommandFailure, ExitStatus
from aweigh_cli.model_making import explained
from aweigh_distill.job import BadDraft
from aweigh_distill.prompts import BadPrompts
from aweigh_distill.training import Diverged
from aweigh_distill.vocabularies import OtherVocabulary
from aweigh_quantize.calibration import TooShort
from aweigh_quantize.failures import Unusable
from aweigh_quantize.job import run
from aweigh_quantize.recipe import RecipeError, Scheme
from aweigh_quantize.unfinished import Occupied
from tests.quantize.jobs import Silent, job

REFUSALS = [
    RecipeError, TooShort, Occupied, Unusable, BadDraft, BadPrompts, Diverged, OtherVocabulary,
]  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_the_user_can_mend_is_told_in_one_sentence(refusal: type[Exception]) -> None:
    with pytest.raises(CommandFailure, match="expected another") as failure, explained():
        raise refusal("this is one; expected another")
    assert failure.value.exit_code == ExitStatus.BAD_INPUT


def test_a_mistake_of_ours_is_not_called_the_users() -> None:
    nothing: list[int] = []
    with pytest.raises(ValueError, match="empty"), explained():
        max(nothing)


@pytest.mark.parametrize(
    ("scheme", "huge", "told"),
    [
        ("gptq", "input_layernorm.weight", r"layers\.1\.self_attn\.\w+: inputs .* expected finite"),
        ("rtn", "mlp.up_proj.weight", "expected a finite"),
    ],
)
def test_a_model_that_computes_no_numbers_is_refused(
    cut: Path, tmp_path: Path, scheme: Scheme, huge: str, told: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(cut, broken)
    weights = load_file(broken / "model.safetensors")
    weights[f"model.layers.1.{huge}"].fill_(3e38)
    save_file(weights, broken / "model.safetensors")
    text = tmp_path / "text.txt"
    text.write_text("A Pod is a group of containers. " * 400)
    with pytest.raises(Unusable, match=told):
        run(job(broken, tmp_path / "out", [text], scheme=scheme), Silent())
    assert not (tmp_path / "out").exists()


def test_a_chat_template_that_takes_no_plain_question_is_refused(cut: Path, tmp_path: Path) -> None:
    strict = tmp_path / "strict"
    shutil.copytree(cut, strict)
    settings = json.loads((strict / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{{ raise_exception('a system message comes first') }}"
    (strict / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(Unusable, match="system message comes first; give --calibration FILE"):
        run(job(strict, tmp_path / "out"), Silent())
