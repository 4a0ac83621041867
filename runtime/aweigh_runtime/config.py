"""Every setting of the runtime. Built once by the command line, frozen, handed out in pieces."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aweigh_api import names
from aweigh_api.model_uri import URI_SCHEMES
from aweigh_api.number_formats import KvCacheDTypeName, SchemeName
from aweigh_api.spec import DTypeName
from aweigh_api.speculation import (
    DEFAULT_DRAFT_TOKENS,
    MAX_DRAFT_MODELS,
    MAX_DRAFT_TOKENS,
    SpeculationMethod,
)
from aweigh_runtime.failures import InvalidConfiguration

DeviceName = Literal["auto", "cpu", "cuda"]
CacheScope = Literal["Key", "Service"]
ToolCallParser = Literal["auto", "hermes", "llama3-json", "mistral", "qwen"]

BLOCK_TOKENS = (16, 32, 64, 128)
MAX_RUNNING = 4096
_MAX_BYTES = 1 << 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of one server. Each field is the flag of the same name."""

    uri: str
    model_name: str
    revision: str | None = None
    secret_dir: Path | None = None  # holds the token for the model's source
    max_model_len: int | None = None  # tokens of prompt and answer; None: the model's own limit
    dtype: DTypeName = "auto"
    quantization: SchemeName = "auto"  # of the weights; auto: as the checkpoint has them
    kv_cache_dtype: KvCacheDTypeName = "auto"  # of cached keys and values
    device: DeviceName = "auto"

    host: str = "127.0.0.1"
    port: int = names.HTTP_PORT
    admin_port: int = names.ADMIN_PORT

    cache_dir: Path  # downloads
    termination_log: Path | None = None

    max_running: int = 256  # requests that decode together
    max_waiting: int = 256  # requests that may wait; more are refused with 429
    step_tokens: int | None = None  # most tokens one forward pass may carry; None: by the device
    exact: bool = False  # an answer never depends on what else runs; slower
    random_weights: bool = False  # of the models' shapes; none are read
    kv_cache_memory: int | None = None  # bytes for keys and values; None: what is left, measured

    speculation: SpeculationMethod | None = None  # who guesses; None: the draft models, if any
    draft_model: tuple[str, ...] = ()  # URI, or URI@REVISION of an hf:// repository
    max_draft_tokens: int = DEFAULT_DRAFT_TOKENS  # guessed at once, at most
    min_acceptance_percent: int | None = None  # None: what is measured decides

    prefix_cache_enabled: bool = True
    prefix_cache_size: int | None = None  # bytes of blocks that no request holds; None: no bound
    prefix_cache_host_memory: int = 0  # bytes of host memory for evicted blocks
    prefix_cache_block_tokens: int = 16
    prefix_cache_scope: CacheScope = "Key"

    api_keys_dir: Path | None = None  # each file holds one key; None: everybody may ask
    tls_dir: Path | None = None  # holds tls.crt and tls.key; None: plain HTTP
    router_secret_dir: Path | None = None  # holds what a router shows; None: there is none
    tool_call_parser: ToolCallParser = "auto"

    drain_settle_seconds: int = 0
    drain_timeout_seconds: int = 120

    def __post_init__(self) -> None:
        _between("--port", self.port, 0, 65_535)
        _between("--admin-port", self.admin_port, 0, 65_535)
        _between("--max-running", self.max_running, 1, MAX_RUNNING)
        _between("--max-waiting", self.max_waiting, 0, 1_000_000)
        if self.step_tokens is not None:
            _between("--step-tokens", self.step_tokens, 1, 1_000_000)
        _between("--drain-settle-seconds", self.drain_settle_seconds, 0, 300)
        _between("--drain-timeout-seconds", self.drain_timeout_seconds, 0, 3600)
        if self.max_model_len is not None:
            _between("--max-model-len", self.max_model_len, 1, 10_000_000)
        if self.port == self.admin_port and self.port != 0:
            raise InvalidConfiguration(
                f"--port and --admin-port are both {self.port}; give each a port of its own"
            )
        if self.kv_cache_memory is not None:
            _between("--kv-cache-memory", self.kv_cache_memory, 1, _MAX_BYTES)
        if self.prefix_cache_size is not None:
            _between("--prefix-cache-size", self.prefix_cache_size, 0, _MAX_BYTES)
        _between("--prefix-cache-host-memory", self.prefix_cache_host_memory, 0, _MAX_BYTES)
        if self.prefix_cache_block_tokens not in BLOCK_TOKENS:
            raise InvalidConfiguration(
                f"--prefix-cache-block-tokens is {self.prefix_cache_block_tokens}; expected one of "
                f"{', '.join(map(str, BLOCK_TOKENS))}"
            )
        self._expect_cache_if_bounded()
        self._expect_sound_speculation()
        if self.step_tokens is not None and self.step_tokens < self.max_running:
            raise InvalidConfiguration(
                f"--step-tokens ({self.step_tokens}) must be at least --max-running "
                f"({self.max_running}): every running request decodes one token per step"
            )

    @property
    def speculation_method(self) -> SpeculationMethod:
        """Who guesses ahead."""
        return self.speculation or ("draft" if self.draft_model else "none")

    def _expect_sound_speculation(self) -> None:
        method, drafts = self.speculation_method, self.draft_model
        _between("--max-draft-tokens", self.max_draft_tokens, 1, MAX_DRAFT_TOKENS)
        if self.min_acceptance_percent is not None:
            _between("--min-acceptance-percent", self.min_acceptance_percent, 1, 100)
        expect_draft_models(drafts)
        if drafts and method != "draft":
            raise InvalidConfiguration(
                f"--draft-model ({', '.join(drafts)}) has no effect with --speculation={method}; "
                "leave one of them out"
            )
        if method == "draft" and not drafts:
            raise InvalidConfiguration(
                "--speculation is draft, but no model guesses; give --draft-model, or "
                "--speculation=ngram"
            )
        shaped = (self.max_draft_tokens, self.min_acceptance_percent)
        if method == "none" and shaped != (DEFAULT_DRAFT_TOKENS, None):
            raise InvalidConfiguration(
                "--max-draft-tokens and --min-acceptance-percent have no effect where nothing "
                "guesses; leave them out, or give --draft-model or --speculation=ngram"
            )

    def _expect_cache_if_bounded(self) -> None:
        bounded = self.prefix_cache_size is not None or self.prefix_cache_host_memory > 0
        if bounded and not self.prefix_cache_enabled:
            raise InvalidConfiguration(
                "--prefix-cache-size and --prefix-cache-host-memory have no effect with "
                "--no-prefix-cache-enabled; leave them out or enable the cache"
            )


def expect_draft_models(drafts: Sequence[str]) -> None:
    """Refuse what no list of draft models can be.

    Args:
        drafts: values of --draft-model.

    Raises:
        InvalidConfiguration: one is no URI, or stands twice, or there are too many.
    """
    for draft in drafts:
        if draft.partition("://")[0] not in URI_SCHEMES:
            raise InvalidConfiguration(
                f"--draft-model is {draft!r}; expected a URI that begins with one of "
                f"{', '.join(f'{scheme}://' for scheme in URI_SCHEMES)}; a folder is file:///PATH"
            )
    if len(set(drafts)) < len(drafts) or len(drafts) > MAX_DRAFT_MODELS:
        raise InvalidConfiguration(
            f"--draft-model is given as {', '.join(drafts)}; expected at most "
            f"{MAX_DRAFT_MODELS}, each once"
        )


def _between(flag: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidConfiguration(f"{flag} is {value}; expected {low} to {high}")
