"""A real model on a GPU, one step ahead: the same answers, and the host never waits to launch."""

from pathlib import Path
from random import Random
from shutil import copy

import pytest
import torch

from aweigh_runtime.engine.assembly import build
from aweigh_runtime.engine.loop import Engine
from aweigh_runtime.engine.messages import Sampling, Start, Stepped, Submission, Work
from aweigh_runtime.sources.local import builtin
from tests.runtime.engine.drafting import texts
from tests.runtime.model.checkpoints import write_family
from tests.runtime.model.families import FAMILIES
from tests.runtime.model.test_decode_graphs_gpu import nobody_waits

pytestmark = pytest.mark.gpu

GREEDY = Sampling(temperature=0)
KINDS = [GREEDY, Sampling(seed=3), Sampling(seed=4, top_p=0.9, top_k=100)]
VOCABULARY = 8192


def engine_of(directory: Path, quantization: str = "auto") -> Engine:
    start = Start(
        uri=f"file://{directory}", revision=None, secret_dir=None, cache_dir="",
        max_model_len=512, dtype="bf16", quantization=quantization, kv_cache_dtype="auto",
        device="cuda", exact=False, max_running=16, step_tokens=2048, block_tokens=16,
        kv_cache_bytes=1 << 27, prefix_caching=False, prefix_cache_bytes=None,
        host_memory_bytes=0, random_weights=quantization == "int4",  # others: the checkpoint's
    )  # fmt: skip
    engine, _ = build(start, directory, lambda done, total: None)
    return engine


def built(quantization: str = "auto") -> Engine:
    return engine_of(Path(builtin("helmsman-8m")), quantization)


@pytest.fixture(scope="module")
def running() -> Engine:
    engine = built()
    assert engine.runs_ahead
    return engine


def asked(sampling: Sampling = GREEDY) -> list[Submission]:
    dice = Random(1)
    return [
        Submission(id, [dice.randrange(6, VOCABULARY) for _ in range(3 + 11 * id)], 8 + 5 * id,
                   [], sampling)
        for id in range(16)
    ]  # fmt: skip


def run(engine: Engine, submitted: list[Submission]) -> list[Stepped]:
    engine.take(Work(submitted, []))
    reports = []
    while engine.patience_s == 0:
        reports.append(engine.step())
    return reports


@pytest.mark.parametrize("sampling", KINDS)
def test_answers_are_the_same_as_those_of_steps_one_by_one(
    running: Engine, sampling: Sampling
) -> None:
    found = []
    for ahead in (False, True, True):
        running.runs_ahead = ahead
        found.append(texts(run(running, asked(sampling))))
    assert found[1] == found[0]
    assert found[2] == found[0]
    assert [len(found[0][id]) for id in range(16)] == [8 + 5 * id for id in range(16)]


def test_an_answer_that_stops_leaves_the_others_as_they_are(running: Engine) -> None:
    running.runs_ahead = False
    plain = texts(run(running, asked()))
    running.runs_ahead = True
    those = asked()
    for each in those[::2]:
        each.stop_tokens.append(plain[each.id][5])
    found = texts(run(running, those))
    for each in those:
        if each.stop_tokens:
            end = plain[each.id].index(each.stop_tokens[0]) + 1
            assert found[each.id] == plain[each.id][:end]
        else:
            assert len(found[each.id]) == len(plain[each.id])


@pytest.mark.parametrize("sampling", KINDS)
def test_the_host_never_waits_to_launch_a_step(
    running: Engine, monkeypatch: pytest.MonkeyPatch, sampling: Sampling
) -> None:
    running.runs_ahead = True
    run(running, asked(sampling))
    launch, launched = running._launch, 0

    def watched(*last):  # type: ignore[no-untyped-def]
        nonlocal launched
        launched += 1
        with nobody_waits():
            return launch(*last)

    monkeypatch.setattr(running, "_launch", watched)
    run(running, asked(sampling))
    assert launched > 80
    torch.cuda.synchronize()


@pytest.mark.parametrize("family", ["Mixtral", "Qwen 3 MoE"])
def test_models_with_experts_run_ahead(tmp_path: Path, family: str) -> None:
    model_type, shape = FAMILIES[family]
    sizes = {"vocab_size": VOCABULARY, "max_position_embeddings": 512}
    directory = write_family(tmp_path, model_type, **shape, **sizes)
    for file in Path(builtin("helmsman-8m")).glob("tokenizer*"):
        copy(file, directory)
    engine = engine_of(directory)
    found = []
    for ahead in (False, True):
        engine.runs_ahead = ahead
        found.append(texts(run(engine, asked())))
    assert found[1] == found[0]
    assert [len(found[0][id]) for id in range(16)] == [8 + 5 * id for id in range(16)]
