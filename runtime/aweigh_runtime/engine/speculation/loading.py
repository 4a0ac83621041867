"""Loads what drafts. Whatever is wrong with a draft model costs the drafts, never the target."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from aweigh_api.number_formats import SchemeName
from aweigh_api.spec import DTypeName
from aweigh_runtime.engine.messages import Draft, Speculation, SpeculationReason, Start
from aweigh_runtime.engine.out_of_memory import out_of_memory
from aweigh_runtime.engine.sizing import RECORDED_TOKENS
from aweigh_runtime.engine.speculation.draft_model import DraftModel
from aweigh_runtime.engine.speculation.fit import context_misfit, vocabulary_misfit
from aweigh_runtime.engine.speculation.frame import DraftForward, Frame
from aweigh_runtime.engine.speculation.ngram import NGram
from aweigh_runtime.engine.speculation.proposer import Proposer
from aweigh_runtime.engine.speculation.speculator import Speculator
from aweigh_runtime.failures import ModelDoesNotFit, StartFailure
from aweigh_runtime.model.architectures import read_config
from aweigh_runtime.model.cache import CacheFormat, KVCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.config import ModelConfig
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.footprint import bytes_per_token, weight_bytes
from aweigh_runtime.model.load import Wish, load
from aweigh_runtime.model.random_weights import make_up
from aweigh_runtime.model.step_inputs import Tokens
from aweigh_runtime.model.stepping import Step, chained, recorded

_WIDE_BYTES = 4  # of a weight in fp32
_SMALL_BYTES = 32 << 20  # weights that stay in a CPU's caches
_SEED = 1  # of random weights; with those of a target of its shape a draft would always be right

_log = logging.getLogger("aweigh.engine")

Fetched = Path | StartFailure  # a model's directory, or why it is not here


@dataclass(frozen=True, slots=True)
class LoadedDraft:
    """A draft model that fits the target."""

    name: str
    decoder: Decoder

    @property
    def bytes_per_token(self) -> int:
        """Memory that one token takes in its cache."""
        return bytes_per_token(self.decoder.config, self.decoder.dtype.itemsize)


@dataclass(frozen=True, slots=True)
class Drafts:
    """The draft models that can be used, and what became of the others."""

    loaded: Sequence[LoadedDraft] = ()
    failures: Sequence[Speculation] = ()  # of those that cannot be used

    @property
    def bytes_per_token(self) -> int:
        """Memory that one token takes in all their caches."""
        return sum(each.bytes_per_token for each in self.loaded)

    def without_memory(self, why: str) -> "Drafts":
        """None of them: the target needs their memory."""
        return Drafts(failures=[*self.failures, Speculation("failed", "OutOfMemory", why)])


def load_drafts(
    start: Start, fetched: Iterable[Fetched], directory: Path, target: Decoder
) -> Drafts:
    """Load the draft models that a server was started with.

    Args:
        start: says which.
        fetched: what became of each.
        directory: of the target.
        target: loaded.
    """
    loaded: list[LoadedDraft] = []
    failures: list[Speculation] = []
    for draft, found in zip(start.drafts, fetched, strict=True):
        one = _load(start, draft, found, directory, target)
        if isinstance(one, LoadedDraft):
            loaded.append(one)
        else:
            failures.append(one)
    return Drafts(loaded, failures)


@dataclass(frozen=True, slots=True)
class Proposers:
    """What drafts for the answers of a server."""

    ready: list[Proposer]
    failures: list[Speculation]  # why others are missing


def proposers(
    start: Start, drafts: Drafts, frame: Frame, num_blocks: int, *, ahead: bool
) -> Proposers:
    """Everything that was asked for and can draft.

    Args:
        start: says what.
        drafts: loaded.
        frame: what they fit into.
        num_blocks: of the pool.
        ahead: whether anything may be launched that follows what nobody has read.
    """
    ready: list[Proposer] = [NGram()] if start.speculation == "ngram" else []
    failures = list(drafts.failures)
    for each in drafts.loaded:
        try:
            ready.append(_warm(each, frame, num_blocks, start, ahead=ahead))
        except Exception as error:
            failures.append(_broken(each.name, error))
    return Proposers(ready, failures)


def speculator(start: Start, found: Proposers) -> Speculator | None:
    """What decides who drafts how much; None: nobody has asked for drafts."""
    if start.speculation == "none":
        return None
    percent = start.min_acceptance_percent
    least = None if percent is None else percent / 100
    return Speculator(found.ready, start.max_draft_tokens, least, found.failures)


def _load(
    start: Start, draft: Draft, found: Fetched, directory: Path, target: Decoder
) -> LoadedDraft | Speculation:
    if isinstance(found, StartFailure):
        return _failed("DraftUnavailable", draft, str(found))
    try:
        config = read_config(found)
        misfit = vocabulary_misfit(found, directory) or context_misfit(config, target.max_model_len)
        if misfit is not None:
            return _failed(misfit.reason, draft, misfit.why)
        dtype = _dtype(config, target.device)
        scheme = cast(SchemeName, draft.scheme)
        wish = Wish(dtype=dtype, scheme=scheme, max_model_len=target.max_model_len)
        if start.random_weights:
            decoder = make_up(found, wish, target.device, _SEED).decoder
        else:
            decoder = load(found, wish, target.device, lambda done, total: None).decoder
    except ModelDoesNotFit as error:
        return _failed("OutOfMemory", draft, str(error))
    except StartFailure as error:
        return _failed("DraftUnavailable", draft, str(error))
    except Exception as error:
        return _broken(draft.name, error)
    return LoadedDraft(draft.name, decoder)


def _dtype(config: ModelConfig, device: torch.device) -> DTypeName:
    """Small matrices are multiplied several times faster in fp32 on a CPU: calls cost most."""
    fast = device.type == "cpu" and weight_bytes(config, _WIDE_BYTES) <= _SMALL_BYTES
    return "fp32" if fast else "auto"


def _failed(reason: SpeculationReason, draft: Draft, why: str) -> Speculation:
    return Speculation("failed", reason, f"the draft model {draft.name} is not used: {why}")


def _broken(name: str, error: Exception) -> Speculation:
    """What nobody has foreseen; the target is served in any case."""
    if out_of_memory(error):
        why = "there is no memory left for it"
        return Speculation("failed", "OutOfMemory", f"the draft model {name} is not used: {why}")
    _log.exception("the draft model %s cannot be used", name, exc_info=error)
    return Speculation(
        "failed", "DraftUnavailable", f"the draft model {name} is not used: {error!r}"
    )


def _warm(
    draft: LoadedDraft, frame: Frame, num_blocks: int, start: Start, *, ahead: bool
) -> DraftModel:
    cache = _cache(draft.decoder, num_blocks, frame.block_tokens)
    draft.decoder.compile_products(frame.step_tokens)
    step = recorded(draft.decoder, cache, start.max_running, RECORDED_TOKENS - 1)
    chain = None
    if ahead:
        chain = chained(
            draft.decoder,
            cache,
            vocab_size=frame.vocab_size,
            most_requests=start.max_running,
            longest=start.max_draft_tokens,
        )
    model = DraftModel(draft.name, _forward(draft.decoder, step), frame, chain)
    model.warm_up(num_blocks, experts=draft.decoder.has_experts)
    return model


def _cache(decoder: Decoder, num_blocks: int, block_tokens: int) -> KVCache:
    kept = CacheFormat(decoder.dtype, decoder.dtype)
    return KVCache(decoder.config, num_blocks, block_tokens, kept, decoder.device)


def _forward(decoder: Decoder, step: Step) -> DraftForward:
    # A target may have more rows than its tokenizer has tokens, and a client may name one of them:
    # the draft reads another token there, and what it guesses then is worse, never wrong.
    last = decoder.config.vocab_size - 1

    def forward(tokens: Tokens, chunks: Sequence[Chunk]) -> torch.Tensor:
        if isinstance(tokens, torch.Tensor):
            return step(tokens.clamp(max=last), chunks)
        return step([min(token, last) for token in tokens], chunks)

    return forward
