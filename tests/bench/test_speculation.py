"""`aweigh bench speculation` on real servers."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from aweigh_bench import replay
from aweigh_bench.wrong_draft import wrong_draft
from aweigh_runtime.sources.local import builtin
from tests.bench.commands import bench

MODEL, DRAFT = "builtin://helmsman-8m", "builtin://helmsman-1m-draft"
SMALL = ("--batches=1", "--pairs=1", "--output-tokens=24", "--threads=1", "--output=json")
SHAPE, DRAFT_SHAPE = "--shape=llama-tiny", "--draft-shape=llama-tiny"
ON_CPU = "--serve-flag=--device=cpu"


async def test_a_draft_is_measured_beside_plain_decoding() -> None:
    done = await bench("speculation", MODEL, f"--draft-model={DRAFT}", *SMALL)
    (row,) = done.rows()
    assert row["accepted %"] > 50
    assert float(row["tokens a step"]) > 1.2
    assert row["state"] == "active"
    assert row["with tok/s"] > 0
    (bar,) = done.bars()
    assert bar.startswith("tokens/s of one at a time")


@pytest.mark.long
async def test_of_several_lengths_the_longest_is_judged() -> None:
    lengths = "--max-draft-tokens=1,8"
    done = await bench("speculation", MODEL, f"--draft-model={DRAFT}", *SMALL, lengths)
    assert [row["up to"] for row in done.rows()] == ["1", "8"]
    (bar,) = done.bars()
    assert "up to 8 drafted" in bar


async def test_a_wrong_draft_is_judged_by_what_it_costs() -> None:
    twice = ("--pairs=2", "--starts=2")
    done = await bench("speculation", MODEL, f"--draft-model={DRAFT}", "--wrong", *SMALL, *twice)
    (row,) = done.rows()
    assert row["accepted %"] is None or row["accepted %"] < 5
    assert float(row["tokens a step"]) < 1.05
    (bar,) = done.bars()
    assert "drafts that are wrong" in bar
    assert row["same text"] == "16 of 16"


@pytest.mark.long
async def test_questions_may_come_from_a_file(tmp_path: Path) -> None:
    asked = tmp_path / "questions.txt"
    asked.write_text("What is a Pod?\n\nWhat is a Node?\n")
    done = await bench("speculation", MODEL, "--speculation=ngram", f"--questions={asked}", *SMALL)
    assert done.rows()[0]["without tok/s"] > 0


@pytest.mark.long
async def test_exact_answers_with_drafts_are_the_same_text() -> None:
    exact = ("--serve-flag=--exact", "--serve-flag=--dtype=fp32")
    done = await bench("speculation", MODEL, f"--draft-model={DRAFT}", *exact, *SMALL)
    assert done.rows()[0]["same text"] == "8 of 8"
    assert done.bars()["answers with drafts that are the same text as without"]


@pytest.mark.long
async def test_seeded_answers_are_the_same_text() -> None:
    exact = ("--serve-flag=--exact", "--serve-flag=--dtype=fp32", f"--draft-model={DRAFT}")
    seeded = await bench("speculation", MODEL, "--choice=seeded", *exact, *SMALL)
    assert seeded.rows()[0]["same text"] == "8 of 8"
    assert seeded.bars()["answers with drafts that are the same text as without"]


async def test_choices_stand_side_by_side_and_what_is_drawn_without_a_seed_is_not_compared() -> (
    None
):
    exact = ("--serve-flag=--exact", "--serve-flag=--dtype=fp32", f"--draft-model={DRAFT}")
    done = await bench("speculation", MODEL, "--choice=sampled,seeded", *exact, *SMALL)
    sampled, seeded = done.rows()
    assert (sampled["choice"], sampled["same text"]) == ("sampled", None)
    assert (seeded["choice"], seeded["same text"]) == ("seeded", "8 of 8")
    accepted = sampled["accepted %"]
    assert accepted is None or accepted > 20  # on a busy machine drafting may not pay
    assert list(done.bars()) == ["answers with drafts that are the same text as without"]


async def test_recorded_answers_are_right_as_often_as_is_stated() -> None:
    done = await bench("speculation", MODEL, "--replay-acceptance=0,100", *SMALL)
    never, always = done.rows()
    assert never["accepted %"] in (None, 0)
    assert float(never["tokens a step"]) == 1.0
    assert always["accepted %"] == 100
    assert float(always["tokens a step"]) > 4
    (bar,) = done.bars()
    assert "none right" in bar


@pytest.mark.long
async def test_recorded_answers_may_take_the_time_of_a_draft_model() -> None:
    draft = f"--draft-model={DRAFT}"
    done = await bench("speculation", MODEL, draft, "--replay-acceptance=100", *SMALL)
    (row,) = done.rows()
    assert row["accepted %"] is None or row["accepted %"] == 100


async def test_recorded_answers_may_be_of_random_weights() -> None:
    shapes = (SHAPE, DRAFT_SHAPE, ON_CPU)
    done = await bench("speculation", *shapes, "--replay-acceptance=0", *SMALL)
    (row,) = done.rows()
    assert row["accepted %"] in (None, 0)
    assert row["with tok/s"] > 0
    assert done.report["model"] == "llama-tiny"
    assert "in the time of llama-tiny" in done.report["tables"][0]["title"]
    (bar,) = done.report["bars"]
    assert "none right" in bar["what"]
    assert bar["wanted"] == ">= 0.99"


async def test_on_a_gpu_drafts_of_a_shape_that_are_mostly_right_have_bars(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replay, "_on_gpu", lambda start: True)
    shapes = (SHAPE, DRAFT_SHAPE, ON_CPU)
    done = await bench("speculation", *shapes, "--replay-acceptance=80", *SMALL, "--batches=1,2")
    wanted = {bar["what"]: bar["wanted"] for bar in done.report["bars"]}
    one, two = (
        f"tokens/s at {size} at once, up to 8 drafted and 80 % right, times those without"
        for size in (1, 2)
    )
    assert wanted == {one: ">= 1.8", two: "> 1"}


async def test_a_draft_of_a_shape_in_fp8_has_a_higher_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_on_gpu", lambda start: True)
    shapes = (SHAPE, DRAFT_SHAPE, ON_CPU, "--draft-quantization=fp8")
    done = await bench("speculation", *shapes, "--replay-acceptance=80", *SMALL)
    assert "in the time of llama-tiny in fp8" in done.report["tables"][0]["title"]
    assert [bar["wanted"] for bar in done.report["bars"]] == [">= 2.1"]


@pytest.mark.parametrize(
    "given",
    [(SHAPE, DRAFT_SHAPE), (MODEL, f"--draft-model={DRAFT}", "--replay-acceptance=80")],
)
async def test_only_recorded_drafts_of_a_shape_may_be_quantized(given: tuple[str, ...]) -> None:
    done = await bench("speculation", *given, "--draft-quantization=fp8", *SMALL)
    assert done.code != 0
    assert "--draft-quantization is fp8" in done.stderr


def test_what_was_measured_before_an_interruption_is_reported() -> None:
    flags = (
        f"--shape=llama-tiny {ON_CPU} --replay-acceptance=0 --batches=1,2 --pairs=1000"
    ).split()
    main = "from aweigh_cli.main import main; main()"
    command = [sys.executable, "-c", main, "bench", "speculation", *flags]
    asked = [*command, "--output-tokens=4", "--threads=1", "--output=json"]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        for line in run.stderr:
            words = line.split()
            if words[0] == "pairs:" and int(words[1]) > 8:  # three of them are not counted
                break
        run.send_signal(signal.SIGINT)
        told = json.loads(run.communicate()[0])
    (row,) = told["tables"][0]["rows"]
    assert row[2] == "1"  # at once
    assert any(note.startswith("Interrupted") for note in told["notes"])


@pytest.mark.long
@pytest.mark.parametrize("drafts", [DRAFT_SHAPE, "--speculation=ngram"])
async def test_drafts_for_random_weights_are_judged_by_what_they_cost(drafts: str) -> None:
    done = await bench("speculation", SHAPE, drafts, ON_CPU, "--choice=sampled", *SMALL)
    assert done.rows()[0]["with tok/s"] > 0
    assert done.report["model"] == "llama-tiny"
    (bar,) = done.report["bars"]
    assert bar["wanted"] == ">= 0.99"


async def test_servers_of_a_shape_take_the_memory_that_its_answers_need() -> None:
    longer = "--serve-flag=--max-model-len=2048"
    done = await bench("speculation", SHAPE, "--speculation=ngram", ON_CPU, longer, *SMALL)
    assert done.code == 1
    # 64 + 24 tokens are six blocks, and one to spare; a token takes 512 bytes at most.
    assert "--kv-cache-memory is 56.00 KiB, and the cache of one request of " in done.stderr


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ((), "nothing to measure; expected a MODEL, or --shape"),
        ((MODEL, SHAPE), f"--shape (llama-tiny) and {MODEL} are both given"),
        ((MODEL,), f"(llama-tiny) drafts with random weights, and MODEL ({MODEL}) has its own"),
        ((SHAPE, f"--draft-model={DRAFT}"), f"--draft-model ({DRAFT}) and --draft-shape"),
        ((SHAPE, "--wrong"), "--wrong gives a draft random weights, and --draft-shape"),
        ((SHAPE, "--speculation=ngram"), "nothing, or too much, to draft with"),
        (("--shape=large",), "--shape is large; expected one of llama-3.1-8b"),
        ((SHAPE, "--draft-shape=large"), "--draft-shape is large; expected one of llama-3.1-8b"),
        ((SHAPE, f"--questions={__file__}"), "answer none; leave --questions out"),
    ],
)
async def test_shapes_that_contradict_the_rest_are_refused(
    given: tuple[str, ...], reason: str
) -> None:
    done = await bench("speculation", DRAFT_SHAPE, *given, *SMALL)
    assert done.code == 78
    assert reason in done.stderr


async def test_a_draft_with_weights_is_not_measured_beside_a_shape() -> None:
    draft = f"--draft-model={DRAFT}"
    for more in ((), ("--replay-acceptance=50",)):
        done = await bench("speculation", SHAPE, draft, *more, *SMALL)
        assert done.code == 78
        assert "expected --draft-shape instead of --draft-model" in done.stderr


async def test_recorded_answers_need_the_draft_whose_time_they_take(tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(builtin("helmsman-1m-draft"), other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    draft = f"--draft-model=file://{other}"
    done = await bench("speculation", MODEL, draft, "--replay-acceptance=100", *SMALL)
    assert done.code == 78
    assert f"the draft model file://{other} is not used: its vocabulary has" in done.stderr


async def test_flags_that_only_a_server_knows_are_refused_with_recorded_answers() -> None:
    flag = "--serve-flag=--max-waiting=3"
    done = await bench("speculation", MODEL, "--replay-acceptance=50", flag, *SMALL)
    assert done.code == 78
    assert "starts no server" in done.stderr


async def test_what_cannot_be_compared_is_refused_before_anything_starts() -> None:
    done = await bench("speculation", MODEL, "--pairs=1")
    assert done.code == 78
    assert "expected --draft-model URI, or --draft-shape NAME, or --speculation" in done.stderr


async def test_a_draft_that_no_server_can_use_is_not_measured(tmp_path: Path) -> None:
    nowhere = f"--draft-model=file://{tmp_path}/nowhere"
    done = await bench("speculation", MODEL, f"--draft-model={DRAFT}", nowhere, *SMALL)
    assert done.code == 78
    assert f"the draft model file://{tmp_path}/nowhere is not used" in done.stderr


async def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    done = await bench("speculation", MODEL, "--speculation=ngram", f"--questions={empty}", *SMALL)
    assert done.code == 78
    assert f"--questions is {empty}, which is empty" in done.stderr


async def test_sizes_that_no_server_computes_are_refused() -> None:
    many = await bench("speculation", MODEL, "--speculation=ngram", "--batches=5000")
    assert "--batches is 5000; expected whole numbers from 1 to 4096" in many.stderr
    long = await bench("speculation", MODEL, "--speculation=ngram", "--max-draft-tokens=17")
    assert "--max-draft-tokens is 17; expected whole numbers from 1 to 16" in long.stderr


def test_a_wrong_draft_has_the_same_shapes_and_other_weights() -> None:
    original = builtin("helmsman-1m-draft")
    with wrong_draft(original) as copy:
        assert copy is not None
        tensors = load_file(copy / "model.safetensors")
        before = load_file(original / "model.safetensors")["model.norm.weight"]
        assert tensors["model.norm.weight"].shape == before.shape == (128,)
        assert tensors["model.norm.weight"].dtype == before.dtype
        assert abs(float(tensors["model.norm.weight"].mean())) < 0.01
        assert (copy / "tokenizer.json").is_file()
    assert not copy.exists()
