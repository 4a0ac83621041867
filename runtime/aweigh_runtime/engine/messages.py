"""What the API process and the engine process say to each other: one message per step each way."""

from typing import Literal

import msgspec

FinishReason = Literal["stop", "length"]
FailureKind = Literal["too_long", "out_of_memory", "grammar", "internal"]
SpeculationState = Literal["active", "paused", "failed"]
SpeculationReason = Literal[
    "VocabularyMismatch",
    "ContextTooShort",
    "DraftUnavailable",
    "OutOfMemory",
    "LowAcceptance",
    "NoGain",
]


class Draft(msgspec.Struct, frozen=True):
    """Where a draft model comes from."""

    uri: str
    revision: str | None = None
    scheme: str = "auto"  # of its quantized matrices, as that of the target

    @property
    def name(self) -> str:
        """As `--draft-model` takes it."""
        return self.uri if self.revision is None else f"{self.uri}@{self.revision}"


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """The first message to the engine: what to load, and how to run it."""

    uri: str
    revision: str | None
    secret_dir: str | None
    cache_dir: str
    max_model_len: int | None
    dtype: str
    quantization: str
    kv_cache_dtype: str
    device: str
    exact: bool
    max_running: int
    step_tokens: int | None  # None: what suits the device
    block_tokens: int
    kv_cache_bytes: int | None  # None: measured
    prefix_caching: bool
    prefix_cache_bytes: int | None  # of named blocks that no request holds; None: no bound
    host_memory_bytes: int
    speculation: Literal["none", "draft", "ngram"] = "none"
    drafts: list[Draft] = []
    max_draft_tokens: int = 0
    min_acceptance_percent: int | None = None  # None: what has been measured decides
    random_weights: bool = False  # none are read, drafts' neither: models to measure


class Sampling(msgspec.Struct, frozen=True, array_like=True):
    """How the next token is chosen. Temperature 0 takes the likeliest."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    seed: int = 0  # the same seed gives the same text
    seeded: bool = False  # the caller chose it: the text is the same however much is drafted
    repetition_penalty: float = 1.0  # divides or multiplies logits of tokens in prompt or answer
    presence_penalty: float = 0.0  # taken off logits of tokens in the answer
    frequency_penalty: float = 0.0  # the same, times how often each occurs
    logit_bias: dict[int, float] = {}  # added to logits
    min_tokens: int = 0  # stop tokens cannot be chosen before the answer has so many


class Submission(msgspec.Struct, frozen=True, array_like=True):
    """One answer to compute."""

    id: int
    prompt: list[int]
    max_tokens: int  # of the answer; 0: the prompt is read, and that is all
    stop_tokens: list[int]  # any of them ends the answer
    sampling: Sampling
    salt: bytes = b""  # answers share cached blocks only under the same salt
    caller: bytes = b""  # waiting requests of several callers take turns
    priority: int = 0  # lower ones first, among the caller's own
    logprobs: int | None = None  # so many likeliest tokens beside each chosen one; None: nothing
    prompt_logprobs: int | None = None  # the same for every prompt token but the first
    grammar: str | None = None  # of llguidance; the answer is in its language
    choices: int = 1  # answers to this very prompt, each with a submission of its own
    first: bool = True  # of those
    begun: int = 0  # so many last tokens of the prompt are the answer's, and count as its own


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
    quantization: str  # scheme of the weights in use
    kv_cache_dtype: str
    max_running: int
    block_tokens: int
    num_blocks: int
    bytes_per_block: int
    prefix_cache_bytes: int | None  # the bound in force; None: caching is off
    largest_step_s: float = 0.0  # seconds of the largest step of a prompt, with an empty cache


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The engine's last message: why it cannot serve."""

    exit_code: int
    termination: str  # aweigh_api.termination.Termination as JSON


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """How likely one token was by the model's own logits, before anything the request asked for."""

    logprob: float
    rank: int  # 1: the likeliest
    top: list[tuple[int, float]]  # the likeliest tokens, likeliest first


class Output(msgspec.Struct, frozen=True, array_like=True):
    """What one step adds to one answer."""

    id: int
    tokens: list[int]
    finish: FinishReason | None  # "stop": the last token is a stop token and no part of the text
    logprobs: list[TokenLogprobs] | None = None  # one for each token, where they were asked for
    cached_tokens: int | None = None  # of the prompt; with the first output of an answer
    prompt_logprobs: list[TokenLogprobs | None] | None = None  # one for each prompt token, likewise
    queued_s: float | None = None  # from its arrival in the engine to its first step, likewise


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """One answer that cannot be finished; the others go on."""

    id: int
    kind: FailureKind
    message: str


class Counters(msgspec.Struct):
    """Sums since the engine started."""

    computed_prompt_tokens: int = 0
    cached_prompt_tokens: int = 0  # found in the cache, counted once for each admitted request
    looked_up_prompt_tokens: int = 0  # of requests that may use the cache
    recomputed_tokens: int = 0  # computed before, and lost to preemption
    preemptions: int = 0
    evicted_blocks: int = 0
    merged_blocks: int = 0  # computed twice, kept once
    host_stored_blocks: int = 0
    host_loaded_blocks: int = 0
    generated_tokens: int = 0
    decode_tokens: int = 0  # emitted by decode rows, drafted ones among them
    decoded_rows: int = 0  # one row = one request in one decode step
    drafted_tokens: int = 0
    accepted_tokens: int = 0  # of those that were drafted
    drafted_at: list[int] = []  # the same by place in a draft, the first one first
    accepted_at: list[int] = []
    kv_tokens_read: int = 0  # by decode rows
    saved_prefill_seconds: float = 0.0  # what cached tokens would have taken to compute


class KvTokens(msgspec.Struct, frozen=True, array_like=True):
    """How the KV memory is used, in tokens."""

    capacity: int = 0
    held: int = 0  # by running requests
    cached: int = 0  # named and held by nobody: evicted when room is needed
    hot: int = 0  # of distinct prompt blocks that were looked up twice in the last minutes


class StepFit(msgspec.Struct, frozen=True, array_like=True):
    """Seconds of a step as a sum over what it computes, fitted to recent steps."""

    base: float
    prompt_token: float
    row: float  # a request that answers
    kv_token: float  # read by such a row
    drafted_token: float
    samples: int
    error: float  # root mean square of (fitted - measured) ÷ measured


class Speculation(msgspec.Struct, frozen=True, array_like=True):
    """Whether drafting goes on, and if not, why."""

    state: SpeculationState
    reason: SpeculationReason | None = None
    message: str = ""


class Stepped(msgspec.Struct, frozen=True, tag=True):
    """From the engine after every step, and each second while there is nothing to do."""

    outputs: list[Output]
    failures: list[Failure]
    running: int
    waiting: int
    waiting_prompt_tokens: int
    counters: Counters
    kv: KvTokens
    unshared_tokens_per_request: float | None  # KV tokens that a running request shares with nobody
    duration_s: float | None  # None: nothing was computed
    num_tokens: int = 0  # that the step computed
    speculation: Speculation | None = None  # None: none was asked for
    step_fit: StepFit | None = None  # None: too few steps


FromEngine = Progress | Fetched | Ready | Failed | Stepped
