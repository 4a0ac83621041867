"""A real model and its draft on a GPU, of which the host reads nothing between the two."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
import torch

from aweigh_runtime.engine.assembly import build
from aweigh_runtime.engine.loop import Engine
from aweigh_runtime.engine.messages import Draft, Sampling, Start, Stepped, Submission
from aweigh_runtime.engine.speculation.chained import ChainedDrafts
from aweigh_runtime.sources.local import builtin
from tests.runtime.engine.chaining import draft_four
from tests.runtime.engine.drafting import texts
from tests.runtime.engine.test_run_ahead_gpu import run
from tests.runtime.model.test_decode_graphs_gpu import nobody_waits

pytestmark = pytest.mark.gpu

GREEDY = Sampling(temperature=0)
ANSWER = 100
BEGINNING = 20  # tokens: of three chains at least


def built(draft: str) -> Engine:
    start = Start(
        uri="file://target", revision=None, secret_dir=None, cache_dir="",
        max_model_len=512, dtype="bf16", quantization="auto", kv_cache_dtype="auto",
        device="cuda", exact=False, max_running=16, step_tokens=2048, block_tokens=16,
        kv_cache_bytes=1 << 27, prefix_caching=True, prefix_cache_bytes=None,
        host_memory_bytes=0, speculation="draft", max_draft_tokens=4,
        drafts=[Draft(f"builtin://{draft}")],
    )  # fmt: skip
    target = Path(builtin("helmsman-8m"))
    engine, _ = build(start, target, lambda done, total: None, [Path(builtin(draft))])
    return engine


@pytest.fixture(scope="module")
def running() -> Engine:
    """Drafted by the model itself: nearly every token stays."""
    return built("helmsman-8m")


def asked(count: int, sampling: Sampling = GREEDY) -> list[Submission]:
    dice = Random(1)
    return [
        Submission(id, [dice.randrange(6, 8192) for _ in range(20 + 9 * id)], ANSWER, [], sampling)
        for id in range(count)
    ]


def chained_of(engine: Engine) -> ChainedDrafts:
    assert engine._speculator is not None
    found = engine._speculator._candidates[0].proposer.chained
    assert isinstance(found, ChainedDrafts)
    return found


@pytest.mark.parametrize("count", [1, 5, 16])
def test_answers_are_those_without_drafts(
    running: Engine, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    speculator, running._speculator = running._speculator, None
    plain = texts(run(running, asked(count)))
    running._speculator = speculator
    draft_four(monkeypatch)
    chained, rounds = chained_of(running), []

    def noted(tokens: Sequence[Sequence[int]], kept: Sequence[int]) -> None:
        rounds.append(len(tokens))
        told(tokens, kept)

    told = chained.told
    monkeypatch.setattr(chained, "told", noted)
    found = texts(run(running, asked(count)))
    assert rounds.count(count) >= BEGINNING // 5  # chains of all of them together
    assert [len(found[id]) for id in range(count)] == [ANSWER] * count
    begins = sum(found[id][:BEGINNING] == plain[id][:BEGINNING] for id in range(count))
    assert begins >= count - count // 4  # steps of other sizes round otherwise,
    same = sum(found[id] == plain[id] for id in range(count))
    assert same >= count - 1 - count // 4  # and what has become another answer stays one


def test_nearly_all_that_a_draft_like_the_model_says_stays(
    running: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft_four(monkeypatch)
    before = run(running, asked(1))[-1].counters
    drafted, accepted = before.drafted_tokens, before.accepted_tokens
    after: Stepped = run(running, asked(1))[-1]
    drafted, accepted = (
        after.counters.drafted_tokens - drafted,
        after.counters.accepted_tokens - accepted,
    )
    assert drafted >= ANSWER // 5 * 4 - 4
    assert accepted > 0.9 * drafted


def test_the_host_launches_the_next_chain_before_it_reads_what_became_of_the_last(
    running: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft_four(monkeypatch)
    chained, events = chained_of(running), []

    def noted(name: str) -> None:
        method = getattr(chained, name)

        def call(*given):  # type: ignore[no-untyped-def]
            if name == "told":
                events.append(name)
                return method(*given)
            with nobody_waits():
                found = method(*given)
            events.append(name)
            return found

        monkeypatch.setattr(chained, name, call)

    for name in ("begin", "go_on", "told", "_begun"):
        noted(name)
    run(running, asked(1))
    torch.cuda.synchronize()
    rounds = events.count("told")
    assert rounds >= ANSWER // 5 - 1
    assert events.count("go_on") >= rounds - 2
    assert events.count("_begun") <= 2  # chains that were not launched ahead
    assert events.index("go_on") < events.index("told")


def test_drawn_answers_are_drafted_as_ever(running: Engine) -> None:
    found = texts(run(running, asked(3, Sampling(seed=3))))
    assert [len(found[id]) for id in range(3)] == [ANSWER] * 3
