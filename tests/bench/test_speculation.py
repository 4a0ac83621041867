"""`aweigh bench speculation` on real servers."""

from pathlib import Path

from safetensors.numpy import load_file

from aweigh_bench.wrong_draft import wrong_draft
from aweigh_runtime.sources.local import builtin
from tests.bench.commands import bench

MODEL, DRAFT = "builtin://helmsman-8m", "builtin://helmsman-1m-draft"
SMALL = ("--batches=1", "--pairs=1", "--output-tokens=24", "--threads=1", "--output=json")


async def test_a_draft_is_measured_beside_plain_decoding() -> None:
    done = await bench("speculation", MODEL, f"--draft-model={DRAFT}", *SMALL)
    (row,) = done.rows()
    assert row["accepted %"] > 50
    assert float(row["tokens a step"]) > 1.2
    assert row["state"] == "active"
    assert row["with tok/s"] > 0
    (bar,) = done.bars()
    assert bar.startswith("tokens/s of one at a time")


async def test_a_wrong_draft_is_judged_by_what_it_costs() -> None:
    done = await bench("speculation", MODEL, f"--draft-model={DRAFT}", "--wrong", *SMALL)
    (row,) = done.rows()
    assert row["accepted %"] is None or row["accepted %"] < 5
    assert float(row["tokens a step"]) < 1.05
    (bar,) = done.bars()
    assert "drafts that are wrong" in bar


async def test_questions_may_come_from_a_file(tmp_path: Path) -> None:
    asked = tmp_path / "questions.txt"
    asked.write_text("What is a Pod?\n\nWhat is a Node?\n")
    done = await bench("speculation", MODEL, "--speculation=ngram", f"--questions={asked}", *SMALL)
    assert done.rows()[0]["without tok/s"] > 0


async def test_what_cannot_be_compared_is_refused_before_anything_starts() -> None:
    done = await bench("speculation", MODEL, "--pairs=1")
    assert done.code == 78
    assert "expected either --draft-model URI or --speculation ngram" in done.stderr


def test_a_wrong_draft_has_the_same_shapes_and_other_weights() -> None:
    original = builtin("helmsman-1m-draft")
    with wrong_draft(original) as copy:
        assert copy is not None
        tensors = load_file(copy / "model.safetensors")
        assert tensors["model.norm.weight"].shape == (128,)
        assert abs(float(tensors["model.norm.weight"].mean())) < 0.01
        assert (copy / "tokenizer.json").is_file()
    assert not copy.exists()
