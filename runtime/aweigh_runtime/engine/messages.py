"""What the API process and the engine process say to each other: one message per step each way."""

from typing import Literal

import msgspec

FinishReason = Literal["stop", "length"]


class Start(msgspec.Struct, frozen=True):
    """The first message to the engine: what to load."""

    uri: str
    revision: str | None
    secret_dir: str | None
    cache_dir: str
    max_model_len: int | None
    dtype: str
    device: str
    max_running: int
    step_tokens: int


class Sampling(msgspec.Struct, frozen=True, array_like=True):
    """How the next token is chosen. Temperature 0 takes the likeliest."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    seed: int = 0  # the same seed gives the same text


class Submission(msgspec.Struct, frozen=True, array_like=True):
    """One answer to compute."""

    id: int
    prompt: list[int]
    max_tokens: int  # of the answer
    stop_tokens: list[int]  # any of them ends the answer
    sampling: Sampling


class Work(msgspec.Struct, frozen=True, array_like=True):
    """To the engine: what is new since the last message."""

    submitted: list[Submission]
    aborted: list[int]


class Progress(msgspec.Struct, frozen=True, tag=True):
    """From the engine, while it starts."""

    stage: Literal["downloading", "loading"]
    done_bytes: int
    total_bytes: int | None


class Fetched(msgspec.Struct, frozen=True, tag=True):
    """From the engine: the model's files are on this machine."""

    directory: str


class Ready(msgspec.Struct, frozen=True, tag=True):
    """From the engine: it takes work now."""

    max_model_len: int
    vocab_size: int
    dtype: str
    max_running: int  # what was asked for, or as many as have room


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The engine's last message: why it cannot serve."""

    exit_code: int
    termination: str  # aweigh_api.termination.Termination as JSON


class Output(msgspec.Struct, frozen=True, array_like=True):
    """One new token of one request."""

    id: int
    token: int
    finish: FinishReason | None  # "stop": the token is a stop token and no part of the text


class Counters(msgspec.Struct):
    """Sums since the engine started."""

    computed_prompt_tokens: int = 0
    generated_tokens: int = 0
    decode_tokens: int = 0  # emitted by decode rows
    decoded_rows: int = 0  # one row = one request in one decode step
    kv_tokens_read: int = 0  # by decode rows


class Stepped(msgspec.Struct, frozen=True, tag=True):
    """From the engine after every step, and each second while there is nothing to do."""

    outputs: list[Output]
    running: int
    waiting: int
    waiting_prompt_tokens: int
    counters: Counters
    duration_s: float | None  # None: nothing was computed


FromEngine = Progress | Fetched | Ready | Failed | Stepped
