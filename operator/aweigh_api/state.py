"""`/state`: what a pod tells the operator about itself, at most 2 kB of JSON.

A field that is absent is unknown, never zero: a newer operator reads an older pod and the other
way round. Counters start at 0 with every `boot_id`.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

MAX_STATE_BYTES = 2048

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


class State(BaseModel):
    """One pod's report."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    boot_id: str
    uptime_s: float
    phase: Phase
    loading: Loading | None = None
    model: ServedModel | None = None

    running: int | None = None
    waiting: int | None = None
    waiting_prompt_tokens: int | None = None

    arrived_requests: int | None = None
    arrived_prompt_tokens: int | None = None
    finished_requests: int | None = None
    finished_output_tokens: int | None = None
    cached_prompt_tokens: int | None = None  # found in the prefix cache
    computed_prompt_tokens: int | None = None
    generated_tokens: int | None = None
    decode_tokens: int | None = None  # emitted by decode rows
    decoded_rows: int | None = None  # one row = one request in one decode step
    kv_tokens_read: int | None = None
    saved_prefill_seconds: float | None = None  # what the cached tokens would have taken

    max_running: int | None = None
    kv_tokens: KvTokens | None = None
    unshared_tokens_per_request: float | None = None
    prefix_cache_bytes: int | None = None  # most that the cache may keep; absent: it is off

    def to_json(self) -> str:
        """The report without what is unknown."""
        return self.model_dump_json(exclude_none=True)
