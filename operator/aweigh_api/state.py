"""`/state`: what a pod tells the operator about itself, at most 2 kB of JSON.

A field that is absent is unknown, never zero: a newer operator reads an older pod and the other
way round. Counters start at 0 with every `boot_id`.
"""

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator

MAX_STATE_BYTES = 2048
LONGEST_WORD = 40  # letters; of what is longer the beginning stays
MAX_WHY_BYTES = 256  # of JSON, for the sentence why nothing is drafted

Phase = Literal["loading", "ready", "draining"]


class Loading(BaseModel):
    """How far loading has come."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    stage: Literal["downloading", "loading"]
    done_bytes: int
    total_bytes: int | None = None  # unknown until the source has told


class ServedModel(BaseModel):
    """The model as the pod resolved it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    max_model_len: int
    dtype: str
    quantization: str | None = None  # scheme of the weights; none: dense
    kv_cache_dtype: str | None = None


class KvTokens(BaseModel):
    """How the memory for keys and values is used, in tokens."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    capacity: int | None = None
    held: int | None = None  # by running requests
    cached: int | None = None  # kept, and held by nobody
    hot: int | None = None  # of distinct prompt blocks that were looked up twice in 300 s


class Speculation(BaseModel):
    """Whether tokens are guessed, and if not, why."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    state: str  # active, paused or failed
    reason: str | None = None  # of the condition SpeculationEffective
    message: str | None = None  # its end is cut off, so that the report stays small

    @field_validator("message")
    @classmethod
    def _short(cls, message: str | None) -> str | None:
        if message is None:
            return None
        whole = " ".join(message.split())
        if _json_bytes(whole) <= MAX_WHY_BYTES:
            return whole
        short = whole[:MAX_WHY_BYTES]
        while _json_bytes(f"{short}…") > MAX_WHY_BYTES:
            short = short[:-1]
        words, _, cut = short.rpartition(" ")
        return f"{words if len(cut) <= LONGEST_WORD else short}…"


class StepFit(BaseModel):
    """Seconds of a step as a sum over what it computes, fitted to recent steps."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    base: float
    prompt_token: float
    row: float  # a request that answers
    kv_token: float  # read by such a row
    drafted_token: float
    samples: int
    error: float  # root mean square of (fitted - measured) ÷ measured


class State(BaseModel):
    """One pod's report."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    boot_id: str
    uptime_s: float
    phase: Phase
    loading: Loading | None = None
    model: ServedModel | None = None

    # A request is one prompt with all answers to it; `running` counts answers.
    running: int | None = None
    waiting: int | None = None
    waiting_prompt_tokens: int | None = None

    arrived_requests: int | None = None  # valid ones, also those that were turned away
    arrived_prompt_tokens: int | None = None
    finished_requests: int | None = None
    finished_output_tokens: int | None = None
    cached_prompt_tokens: int | None = None  # found in the prefix cache
    computed_prompt_tokens: int | None = None
    generated_tokens: int | None = None
    decode_tokens: int | None = None  # emitted by decode rows
    decoded_rows: int | None = None  # one row = one request in one decode step
    drafted_tokens: int | None = None
    accepted_tokens: int | None = None  # of those that were drafted
    kv_tokens_read: int | None = None
    saved_prefill_seconds: float | None = None  # what the cached tokens would have taken

    max_running: int | None = None
    kv_tokens: KvTokens | None = None
    unshared_tokens_per_request: float | None = None
    prefix_cache_bytes: int | None = None  # most that the cache may keep; absent: it is off
    step_fit: StepFit | None = None  # absent: too few steps
    speculation: Speculation | None = None  # absent: none is asked for, or it loads

    def to_json(self) -> str:
        """The report without what is unknown."""
        return self.model_dump_json(exclude_none=True)


def _json_bytes(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode(errors="replace"))
