"""What pods say of themselves: `/state` while they live, the termination log when they die."""

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from aweigh_api.reasons import ConditionType, Reason
from aweigh_api.state import (
    MAX_STATE_BYTES,
    MAX_WHY_BYTES,
    KvTokens,
    Loading,
    ServedModel,
    Speculation,
    State,
    StepFit,
)
from aweigh_api.termination import MAX_TERMINATION_BYTES, Termination

COUNTER = 2**62
SECONDS = -1.2345678901234567e-100


@given(message=st.text(max_size=2000))
@example(message="x" * 2000)
@example(message="\0" * 300)
@example(message="\U0001f40b" * 300)
def test_a_full_report_fits_into_two_kilobytes(message: str) -> None:
    numbers: dict[Any, float] = {int | None: COUNTER, float | None: SECONDS}
    figures = {
        name: numbers[field.annotation]
        for name, field in State.model_fields.items()
        if field.annotation in numbers
    }
    state = State(
        boot_id="f" * 32,
        uptime_s=1e9,
        phase="loading",
        loading=Loading(stage="downloading", done_bytes=COUNTER, total_bytes=COUNTER),
        model=ServedModel(name="m" * 256, max_model_len=10_000_000, dtype="bf16"),
        step_fit=StepFit(
            base=SECONDS,
            prompt_token=SECONDS,
            row=SECONDS,
            kv_token=SECONDS,
            drafted_token=SECONDS,
            samples=COUNTER,
            error=SECONDS,
        ),
        speculation=Speculation(state="failed", reason="VocabularyMismatch", message=message),
        kv_tokens=KvTokens(capacity=COUNTER, held=COUNTER, cached=COUNTER, hot=COUNTER),
        **figures,
    )
    assert state.model_fields_set == set(State.model_fields)
    assert len(state.to_json().encode()) <= MAX_STATE_BYTES


def test_the_sentence_of_a_report_keeps_its_beginning() -> None:
    sentence = "the draft has 4096 tokens; " + "x" * 1000
    told = Speculation(state="failed", message=sentence).message
    assert told is not None
    assert told.endswith("x…")
    assert sentence.startswith(told[:-1])
    assert len(told) > 200
    told = Speculation(state="failed", message="many words " * 100).message
    assert told is not None
    assert told.endswith((" many…", " words…"))
    assert len(json.dumps(told, ensure_ascii=False).encode()) <= MAX_WHY_BYTES


def test_what_is_unknown_is_absent_and_not_zero() -> None:
    state = State(boot_id="a", uptime_s=1.0, phase="ready", running=0)
    assert state.to_json() == '{"boot_id":"a","uptime_s":1.0,"phase":"ready","running":0}'


def test_a_report_with_fields_of_a_newer_pod_is_understood() -> None:
    report = '{"boot_id":"a","uptime_s":1,"phase":"ready","kv_tokens":{"cold":2},"new":[1]}'
    assert State.model_validate_json(report).phase == "ready"


@given(message=st.text(min_size=1, max_size=5000))
def test_a_last_word_survives_the_kubelets_limit(message: str) -> None:
    last = Termination(
        condition=ConditionType.MODEL_READY, reason=Reason.MODEL_UNREADABLE, message=message
    )
    text = last.to_json()
    assert len(text.encode()) <= MAX_TERMINATION_BYTES
    read = Termination.parse(text)
    assert read is not None
    assert message.startswith(read.message)


def test_a_traceback_is_not_mistaken_for_a_last_word() -> None:
    assert Termination.parse("Traceback (most recent call last):") is None
