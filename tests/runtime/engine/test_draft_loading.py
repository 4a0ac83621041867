"""A target and a draft from their files: whatever the draft lacks, the target is served."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from msgspec import structs
from safetensors.torch import load_file, save_file

from aweigh_runtime.engine import assembly, warm_up
from aweigh_runtime.engine.loop import Engine
from aweigh_runtime.engine.messages import Draft, Speculation, Start, Work
from aweigh_runtime.sources.local import builtin
from tests.runtime.engine.real import answers, greedy

PADDING = 64  # rows of the target that its tokenizer has no tokens for
PROMPT = [8200, 11, 12, 13]  # the first is one of them


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The draft as a target, with more rows than it has tokens."""
    directory = tmp_path_factory.mktemp("models") / "padded"
    shutil.copytree(builtin("helmsman-1m-draft"), directory)
    tensors = load_file(directory / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    more = torch.full((PADDING, embedding.shape[1]), 0.01, dtype=embedding.dtype)
    tensors["model.embed_tokens.weight"] = torch.cat((embedding, more))
    save_file(tensors, directory / "model.safetensors")
    config = directory / "config.json"
    fields = json.loads(config.read_text())
    config.write_text(json.dumps(fields | {"vocab_size": len(embedding) + PADDING}))
    return directory


START = Start(
    uri="file://target",
    revision=None,
    secret_dir=None,
    cache_dir="",
    max_model_len=256,
    dtype="fp32",
    quantization="auto",
    kv_cache_dtype="auto",
    device="cpu",
    exact=True,
    max_running=4,
    step_tokens=None,
    block_tokens=16,
    kv_cache_bytes=16 << 20,
    prefix_caching=True,
    prefix_cache_bytes=None,
    host_memory_bytes=0,
    speculation="draft",
    max_draft_tokens=4,
    drafts=[Draft("builtin://draft")],
)


def told_by(engine: Engine) -> Speculation:
    """What it says of its drafts behind an answer, which has all its tokens."""
    engine.take(Work([greedy(1, list(PROMPT), 4)], []))
    reports = [engine.step()]
    while engine.patience_s == 0:
        reports.append(engine.step())
    assert len(answers(reports)[1]) == 4
    told = reports[-1].speculation
    assert told is not None
    return told


def built(target: Path) -> Engine:
    engine, _ = assembly.build(
        START, target, lambda done, total: None, [builtin("helmsman-1m-draft")]
    )
    return engine


def test_tokens_that_a_draft_does_not_have_are_read_as_others(padded: Path) -> None:
    engine = built(padded)
    engine.take(Work([greedy(1, list(PROMPT), 40)], []))
    reports = [engine.step()]
    while engine.patience_s == 0:
        reports.append(engine.step())
    assert len(answers(reports)[1]) == 40
    assert not any(each.failures for each in reports)
    assert reports[-1].counters.drafted_tokens > 10
    assert reports[-1].speculation is not None
    assert reports[-1].speculation.state == "active"


def test_without_memory_for_the_step_with_drafts_the_target_is_served_alone(
    padded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify(*arguments: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(warm_up, "_verify", verify)
    engine = built(padded)
    told = told_by(engine)
    assert (told.state, told.reason) == ("failed", "OutOfMemory")
    assert "no memory for the largest step on cpu" in told.message


def half(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


def noise(whole: bytes) -> bytes:
    return bytes(255 - byte for byte in whole[:4096])


@pytest.mark.parametrize("broken", [half, noise])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_draft_whose_files_are_broken_is_left_out(
    name: str, broken: Callable[[bytes], bytes], padded: Path, tmp_path: Path
) -> None:
    draft = tmp_path / "draft"
    shutil.copytree(builtin("helmsman-1m-draft"), draft)
    (draft / name).write_bytes(broken((draft / name).read_bytes()))
    engine, _ = assembly.build(START, padded, lambda done, total: None, [draft])
    told = told_by(engine)
    assert (told.state, told.reason) == ("failed", "DraftUnavailable")
    assert told.message.startswith("the draft model builtin://draft is not used: ")


def test_of_random_weights_a_draft_needs_no_file_and_is_not_the_target_itself(
    tmp_path: Path,
) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(builtin("helmsman-1m-draft") / name, tmp_path)
    start = structs.replace(START, random_weights=True)
    engine, _ = assembly.build(start, tmp_path, lambda done, total: None, [tmp_path])
    engine.take(Work([greedy(1, PROMPT[1:], 40)], []))
    reports = [engine.step()]
    while engine.patience_s == 0:
        reports.append(engine.step())
    told, counters = reports[-1].speculation, reports[-1].counters
    assert told is not None
    assert told.state == "active", told.message
    assert counters.drafted_tokens > 10
    assert counters.accepted_tokens < counters.drafted_tokens / 2
