"""A job from a draft to a better one, killed or not, and what it refuses."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch

from aweigh_distill import answers, student
from aweigh_distill.job import BadDraft, run
from aweigh_distill.prompts import BadPrompts, read_files
from aweigh_distill.training import Diverged
from aweigh_distill.vocabularies import OtherVocabulary
from aweigh_quantize import generation
from aweigh_quantize.job import run as quantize
from aweigh_quantize.texts import Text
from aweigh_quantize.unfinished import Occupied
from aweigh_runtime.failures import ModelDoesNotFit, ModelUnreadable, UnsupportedModel
from aweigh_runtime.model.decoder import Decoder
from tests.cli.command import environment
from tests.distill.jobs import job, write_model, write_prompts
from tests.quantize.jobs import Silent
from tests.quantize.jobs import job as quantizing
from tests.runtime.model.checkpoints import (
    load_decoder,
    load_oracle,
    new_cache,
    oracle_logits,
    random_tokens,
    step,
)

PATIENCE_S = 120.0
COPIED = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


@pytest.fixture(scope="module")
def whole(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a job writes that nobody disturbs."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(job(models, out), Silent())
    return out


def test_a_draft_that_knew_nothing_of_its_target_is_accepted_far_more_often(
    models: Path, tmp_path: Path
) -> None:
    found = run(job(models, tmp_path / "out"), Silent())
    acceptance, agreement = found.acceptance["prose"], found.agreement["prose"]
    assert acceptance.before.value < 0.1
    assert acceptance.gain.low > 0.2
    assert agreement.gain.low > 0.2
    assert acceptance.after.value == pytest.approx(acceptance.before.value + acceptance.gain.value)
    card = (tmp_path / "out" / "README.md").read_text()
    assert str(acceptance.after) in card
    assert found.num_held_out == 10


def test_the_result_is_a_checkpoint_like_the_draft_for_us_and_for_transformers(
    models: Path, whole: Path
) -> None:
    for name in COPIED:
        assert (whole / name).read_bytes() == (models / "draft" / name).read_bytes()
    before, after = (
        json.loads((folder / "config.json").read_text()) for folder in (models / "draft", whole)
    )
    assert after == before
    tokens = random_tokens(0, 20)
    decoder = load_decoder(whole)
    ours = step(decoder, new_cache(decoder, 1), [(0, 0, tokens)])
    theirs = oracle_logits(load_oracle(whole), tokens)
    torch.testing.assert_close(ours[0], theirs, atol=1e-4, rtol=1e-4)


def test_a_killed_job_goes_on_and_gives_the_same_bytes(
    models: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, saved = tmp_path / "out", tmp_path / "out.partial" / "training.json"
    command = [sys.executable, "-m", "tests.distill.jobs", str(models), str(out)]
    with subprocess.Popen(command, env=environment(OMP_NUM_THREADS="1")) as killed:
        deadline = time.monotonic() + PATIENCE_S
        while not saved.is_file() and time.monotonic() < deadline:
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
    assert saved.is_file()
    assert not out.exists()

    def generate(*arguments: object) -> list[Text]:
        raise AssertionError("the target is asked again")

    monkeypatch.setattr(answers, "generate", generate)
    shown = Silent()
    run(job(models, out), shown)
    begun = next(done for what, _, done in shown.parts if what == "training")
    assert 0 < begun <= 60
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not (tmp_path / "out.partial").exists()


def test_answers_are_kept_piece_by_piece(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "_PIECE", 8)
    undisturbed, out, asked = tmp_path / "undisturbed", tmp_path / "out", []
    run(job(models, undisturbed, beginnings=80, steps=5), Silent())
    with pytest.raises(Stopped):
        run(job(models, out, beginnings=80, steps=5), Impatient("answers of the target", 100))

    def generate(decoder: Decoder, prompts: Sequence[Sequence[int]], *rest: Any) -> list[Text]:
        asked.append(len(prompts))
        return generation.generate(decoder, prompts, *rest)

    monkeypatch.setattr(answers, "generate", generate)
    shown = Silent()
    run(job(models, out, beginnings=80, steps=5), shown)
    (total,) = (total for what, total, _ in shown.parts if what == "answers of the target")
    assert total - 100 <= sum(asked) < total - 100 + 8  # and no beginning
    files = ("model.safetensors", "config.json")
    assert all((out / name).read_bytes() == (undisturbed / name).read_bytes() for name in files)


class Stopped(Exception):
    """Somebody pressed control-C."""


class Impatient(Silent):
    """Stops in the middle of a part, after so many steps of it, or as many again."""

    def __init__(self, part: str, steps: int) -> None:
        super().__init__()
        self._part, self._steps = part, steps

    def advance(self) -> None:
        super().advance()
        if self.parts[-1][0] == self._part and self.steps_of_part() % self._steps == 0:
            raise Stopped


def test_a_job_goes_on_only_where_its_own_work_lies_unbroken(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):  # the second time it stops behind steps that were kept
        with pytest.raises(Stopped):
            run(job(models, out, saving_share=inf), Impatient("training", 7))
    with pytest.raises(Occupied, match="--steps is 61, and was 60"):
        run(job(models, out, steps=61), Silent())
    (kept,) = (tmp_path / "out.partial").glob("training-*.safetensors")
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1
    kept.write_bytes(data)
    with pytest.raises(ModelUnreadable, match="is not what was written"):
        run(job(models, out), Silent())
    assert not out.exists()


def test_a_draft_with_other_tokens_is_refused_with_both_figures(
    models: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(models / "draft", other)
    found = json.loads((other / "tokenizer.json").read_text())
    found["added_tokens"].pop()
    (other / "tokenizer.json").write_text(json.dumps(found))
    with pytest.raises(OtherVocabulary, match=r"has 259 tokens and that of the target .* 260"):
        run(job(models, tmp_path / "out", draft_directory=other), Silent())


def test_a_padded_vocabulary_is_no_other_one(models: Path, tmp_path: Path) -> None:
    draft = write_model(tmp_path / "draft", seed=1, vocab_size=288)
    found = run(job(models, tmp_path / "out", draft_directory=draft), Silent())
    assert found.acceptance["prose"].gain.low > 0.1


def test_too_few_prompts_are_refused(models: Path, tmp_path: Path) -> None:
    few = write_prompts(tmp_path / "few.txt", 63)
    with pytest.raises(BadPrompts, match=r"has 63 prompts, of which 63 .* at least 64"):
        run(job(models, tmp_path / "out", prompts=[few]), Silent())
    assert not (tmp_path / "out.partial").exists()
    with pytest.raises(BadPrompts, match=r"target has no subjects\.txt"):
        run(job(models, tmp_path / "out", prompts=[]), Silent())


@pytest.mark.parametrize("line", ['{"prompt": 3}', "no json", '{"messages": []}', '["a"]'])
def test_a_line_that_is_no_prompt_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "one"}\n' + line)
    with pytest.raises(BadPrompts, match=r"prompts\.jsonl:2 is "):
        read_files([path])


def test_training_that_diverges_says_so_and_leaves_no_draft(models: Path, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"training has diverged in step \d+ of 60.*lower than 1e"):
        run(job(models, tmp_path / "out", learning_rate=1e12), Silent())
    assert not (tmp_path / "out").exists()


def test_the_target_is_no_draft_for_itself(models: Path, tmp_path: Path) -> None:
    itself = models / "target"
    with pytest.raises(BadDraft, match="the target itself, which accepts all that it proposes"):
        run(job(models, tmp_path / "out", draft_directory=itself, draft="itself"), Silent())
    assert not (tmp_path / "out.partial").exists()


def test_a_quantized_draft_cannot_be_trained(models: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("what a model is calibrated on " * 500)
    quantize(quantizing(models / "draft", tmp_path / "int8", [text], scheme="int8"), Silent())
    with pytest.raises(UnsupportedModel, match="cannot be trained"):
        run(job(models, tmp_path / "out", draft_directory=tmp_path / "int8"), Silent())


def test_a_model_that_does_not_fit_is_refused(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student, "available_bytes", lambda device: 100_000)
    with pytest.raises(ModelDoesNotFit, match=r"beside the target, and 0\.00 GB are free"):
        run(job(models, tmp_path / "out"), Silent())
    monkeypatch.setattr("aweigh_runtime.model.building.available_bytes", lambda device: 100_000)
    with pytest.raises(ModelDoesNotFit, match=r"the weights of .*target need"):
        run(job(models, tmp_path / "other"), Silent())
