"""What the API process tells of guesses, once the engine has said what became of them."""

import logging
from pathlib import Path

import pytest

from aweigh_api.state import MAX_STATE_BYTES, State
from aweigh_runtime.child import Child
from aweigh_runtime.config import Config
from aweigh_runtime.engine.client import EngineClient
from aweigh_runtime.engine.messages import Counters, KvTokens, Speculation, StepFit, Stepped
from aweigh_runtime.server.metrics import Metrics
from aweigh_runtime.server.service import Service

COUNTERS = Counters(
    decode_tokens=384,
    decoded_rows=150,
    drafted_tokens=400,
    accepted_tokens=284,
    drafted_at=[150, 140, 110],
    accepted_at=[130, 90, 64],
)
FIT = StepFit(0.001234567891, 1e-5 / 3, 2e-5 / 3, 1e-9 / 3, 1e-4 / 3, 2**40, 0.1 / 3)
FAILED = Speculation("failed", "VocabularyMismatch", "the draft has 4096 tokens; " + "x" * 5000)


async def service(
    told: Speculation | None, counters: Counters = COUNTERS, **flags: object
) -> Service:
    """A server whose engine has said this in its last step."""
    config = Config(uri="builtin://x", model_name="m" * 256, cache_dir=Path("/c"), **flags)  # type: ignore[arg-type]
    engine = EngineClient(Child.__new__(Child), on_progress=lambda loading: None)
    engine.stepped = Stepped(
        [], [], 1, 0, 0, counters, KvTokens(1, 1, 1, 1), 1.0, 0.1,
        speculation=told, step_fit=FIT if told else None,
    )  # fmt: skip
    return Service(config, engine)


async def test_the_report_tells_state_counters_and_fit() -> None:
    found = (await service(Speculation("active"), draft_model=("builtin://d",))).state()
    assert (found.drafted_tokens, found.accepted_tokens) == (400, 284)
    assert found.speculation is not None
    assert (found.speculation.state, found.speculation.message) == ("active", None)
    assert found.step_fit is not None
    assert found.step_fit.base == 0.00123457
    assert found.step_fit.samples == 2**40


async def test_the_report_stays_small_whatever_the_reason() -> None:
    found = (await service(FAILED, draft_model=("builtin://d",))).state()
    text = found.to_json()
    assert len(text.encode()) < MAX_STATE_BYTES
    told = State.model_validate_json(text).speculation
    assert told is not None
    assert told.reason == "VocabularyMismatch"
    assert told.message is not None
    assert told.message.startswith("the draft has 4096 tokens")


async def test_the_log_tells_once_what_became_of_drafts(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("aweigh"), "propagate", True)
    engine = EngineClient(Child.__new__(Child), on_progress=lambda loading: None)
    engine.on_step = lambda seconds, tokens: None
    with caplog.at_level(logging.INFO, "aweigh.engine"):
        for told in (Speculation("active"), FAILED, FAILED, None):
            engine._step(
                Stepped([], [], 0, 0, 0, COUNTERS, KvTokens(), None, None, speculation=told)
            )
    active, failed = caplog.records
    assert (active.levelname, active.getMessage()) == ("INFO", "speculation is active")
    assert failed.levelname == "WARNING"
    assert failed.getMessage().startswith("speculation is failed: the draft has 4096 tokens")


async def test_without_speculation_there_is_nothing_to_tell() -> None:
    silent = await service(None)
    assert "speculation" not in silent.state().to_json()
    text = Metrics(silent).text().decode()
    assert "draft" not in text
    assert "speculation" not in text


@pytest.mark.parametrize(
    ("series", "value"),
    [
        ("aweigh_drafts_total{{{model}}}", 150.0),
        ("vllm:spec_decode_num_drafts_total{{{model}}}", 150.0),
        ("aweigh_drafted_tokens_total{{{model}}}", 400.0),
        ("vllm:spec_decode_num_draft_tokens_total{{{model}}}", 400.0),
        ("aweigh_accepted_tokens_total{{{model}}}", 284.0),
        ("vllm:spec_decode_num_accepted_tokens_total{{{model}}}", 284.0),
        ('aweigh_drafted_tokens_per_position_total{{{model},position="2"}}', 110.0),
        ('aweigh_accepted_tokens_per_position_total{{{model},position="0"}}', 130.0),
        ('vllm:spec_decode_num_accepted_tokens_per_pos_total{{{model},position="2"}}', 64.0),
        ('vllm:spec_decode_num_accepted_tokens_per_pos_total{{{model},position="3"}}', 0.0),
        ('aweigh_speculation_state{{{model},state="active"}}', 1.0),
        ('aweigh_speculation_state{{{model},state="failed"}}', 0.0),
    ],
)
async def test_the_metrics_have_our_names_and_vllms(series: str, value: float) -> None:
    served = await service(Speculation("active"), draft_model=("builtin://d",), max_draft_tokens=4)
    lines = Metrics(served).text().decode().splitlines()
    model = f'model_name="{"m" * 256}"'
    assert f"{series.format(model=model)} {value}" in lines
    assert not [line for line in lines if 'position="4"' in line]


async def test_before_the_first_guess_every_series_is_there() -> None:
    served = await service(Speculation("active"), Counters(), speculation="ngram")
    text = Metrics(served).text().decode()
    assert text.count('position="7"') == 3
    assert served.state().drafted_tokens == 0
