"""Puts model and cache on the device and joins them to the step loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from aweigh_api.number_formats import KvCacheDTypeName, SchemeName
from aweigh_api.spec import DTypeName
from aweigh_runtime.engine.grammars import Grammars
from aweigh_runtime.engine.loop import Engine, Forward
from aweigh_runtime.engine.messages import Ready, Start
from aweigh_runtime.engine.out_of_memory import return_unused_memory
from aweigh_runtime.engine.prefixes import Copies, Memory
from aweigh_runtime.engine.room import LongestRequest, expect_host_room, kv_bytes, peak_bytes
from aweigh_runtime.engine.sampling.choice import Sampler
from aweigh_runtime.engine.scheduler import Limits, Scheduler
from aweigh_runtime.engine.sizing import RECORDED_TOKENS, STEP_TOKENS
from aweigh_runtime.engine.speculation.frame import Frame
from aweigh_runtime.engine.speculation.loading import (
    Drafts,
    Fetched,
    Proposers,
    load_drafts,
    proposers,
    speculator,
)
from aweigh_runtime.engine.step_fit import StepFitter, Timed
from aweigh_runtime.engine.threads import use_threads
from aweigh_runtime.engine.warm_up import compile_all, timed, warm_up
from aweigh_runtime.failures import InvalidConfiguration, ModelDoesNotFit
from aweigh_runtime.model.cache import FP8, CacheFormat, KVCache
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.footprint import bytes_per_token
from aweigh_runtime.model.host_copy import HostCopies
from aweigh_runtime.model.load import Loaded, Wish, load
from aweigh_runtime.model.random_weights import make_up
from aweigh_runtime.model.stepping import chained_bytes, launched, recorded, recorded_bytes
from aweigh_runtime.text.defaults import stop_tokens_of

_DTYPE_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", FP8: "fp8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What an engine is made of."""

    scheduler: Scheduler
    forward: Forward
    sampler: Sampler
    compiler: Grammars
    copy: Callable[[Copies], None]
    proposers: Proposers
    ready: Ready
    known_steps: Sequence[Timed]
    runs_ahead: bool  # launching a step waits for nothing


def build(
    start: Start,
    directory: Path,
    progress: Callable[[int, int | None], None],
    fetched: Sequence[Fetched] = (),
) -> tuple[Engine, Ready]:
    """Load the model and make the engine around it; arguments and errors are those of `parts`."""
    found = parts(start, directory, progress, fetched)
    engine = Engine(
        found.scheduler,
        found.forward,
        found.sampler,
        found.compiler,
        found.copy,
        speculator(start, found.proposers),
    )
    engine.runs_ahead = found.runs_ahead
    engine.step_fitter = StepFitter(found.known_steps)
    return engine, found.ready


def parts(
    start: Start,
    directory: Path,
    progress: Callable[[int, int | None], None],
    fetched: Sequence[Fetched] = (),
) -> Parts:
    """Load the model and all that an engine needs beside it.

    Args:
        start: how it shall run.
        directory: of the model.
        progress: called while it is loaded.
        fetched: what became of each draft model.

    Raises:
        StartFailure: as `load` does, or because keys and values do not fit.
    """
    device = _device(start.device)
    wish = Wish(
        dtype=cast(DTypeName, start.dtype),
        scheme=cast(SchemeName, start.quantization),
        max_model_len=start.max_model_len,
        exact=start.exact,
    )
    if start.random_weights:
        loaded = make_up(directory, wish, device)
    else:
        loaded = load(directory, wish, device, progress)
    decoder, quantization = loaded.decoder, loaded.quantization
    kept = _cache_format(start, loaded)
    use_threads(device, loaded.weight_bytes)
    limits = Limits(
        max_running=start.max_running,
        step_tokens=start.step_tokens or max(STEP_TOKENS[device.type], start.max_running),
        max_model_len=decoder.max_model_len,
    )
    sampler = Sampler(decoder.config.vocab_size)
    drafts = load_drafts(start, fetched, directory, decoder)
    lacking = ""
    try:
        num_blocks = _num_blocks(start, decoder, limits, sampler, kept, drafts)
    except ModelDoesNotFit as error:
        if not drafts.loaded:
            raise
        lacking = str(error)
    if lacking:  # here nothing holds the draft models any more
        drafts = drafts.without_memory(f"with its draft models {lacking}; served without them")
        return_unused_memory()
        num_blocks = _num_blocks(start, decoder, limits, sampler, kept, drafts)
    own_bytes = bytes_per_token(decoder.config, kept.kept.itemsize)
    block_bytes = start.block_tokens * (own_bytes + drafts.bytes_per_token)
    cache = KVCache(decoder.config, num_blocks, start.block_tokens, kept, device)
    memory, copy = _memory(start, cache, block_bytes)
    compile_all(launched(decoder, cache), decoder, limits, cache)
    forward = recorded(decoder, cache, limits.max_running, _longest_draft(start, drafts))
    warm_up(forward, sampler, limits, cache, _longest_draft(start, drafts))
    known_steps = timed(forward, sampler, limits, cache)

    compiler = Grammars(directory, decoder.config.vocab_size, stop_tokens_of(directory))
    frame = Frame(
        vocab_size=decoder.config.vocab_size,
        block_tokens=start.block_tokens,
        max_model_len=limits.max_model_len,
        step_tokens=limits.step_tokens,
        device=device,
    )
    ready = Ready(
        max_model_len=limits.max_model_len,
        vocab_size=decoder.config.vocab_size,
        dtype=_DTYPE_NAMES[decoder.dtype],
        quantization="none" if quantization is None else quantization.scheme,
        kv_cache_dtype=_DTYPE_NAMES[kept.kept],
        max_running=limits.max_running,
        block_tokens=start.block_tokens,
        num_blocks=num_blocks,
        bytes_per_block=block_bytes,
        prefix_cache_bytes=_cache_bytes(memory, block_bytes, start.prefix_cache_bytes),
        largest_step_s=max(step.seconds for step in known_steps),
    )
    return Parts(
        scheduler=Scheduler(limits, memory),
        forward=forward,
        sampler=sampler,
        compiler=compiler,
        copy=copy,
        proposers=proposers(start, drafts, frame, num_blocks, ahead=_runs_ahead(decoder)),
        ready=ready,
        known_steps=known_steps,
        runs_ahead=_runs_ahead(decoder),
    )


def _runs_ahead(decoder: Decoder) -> bool:
    """Whether launching a step waits for nothing."""
    return decoder.device.type == "cuda" and not decoder.waits


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidConfiguration(
            "--device is cuda, but no GPU is visible; give the pod nvidia.com/gpu: 1 or use "
            "--device=auto"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _cache_format(start: Start, loaded: Loaded) -> CacheFormat:
    """What was asked for, else what the checkpoint was made for."""
    wanted = cast(KvCacheDTypeName, start.kv_cache_dtype)
    quantization = loaded.quantization
    if wanted == "auto" and quantization is not None and quantization.kv_cache_scheme == "fp8":
        wanted = "fp8"
    return CacheFormat.of(loaded.decoder.dtype, wanted, loaded.kv_scales)


def _num_blocks(
    start: Start,
    decoder: Decoder,
    limits: Limits,
    sampler: Sampler,
    kept: CacheFormat,
    drafts: Drafts,
) -> int:
    """Blocks for which there is room beside weights and the largest step."""
    own_bytes = bytes_per_token(decoder.config, kept.kept.itemsize)
    block_bytes = start.block_tokens * (own_bytes + drafts.bytes_per_token)

    def largest_step() -> None:
        num_blocks = -(-limits.step_tokens // start.block_tokens) + 1
        size = (num_blocks, start.block_tokens, kept, decoder.device)
        cache = KVCache(decoder.config, *size)
        longest = _longest_draft(start, drafts)
        warm_up(launched(decoder, cache), sampler, limits, cache, longest)

    reserved = peak_bytes(decoder.device, largest_step)
    reserved += recorded_bytes(decoder, limits.max_running, _longest_draft(start, drafts))
    reserved += sum(
        recorded_bytes(each.decoder, limits.max_running, RECORDED_TOKENS - 1)
        + (chained_bytes(each.decoder, limits.max_running) if _runs_ahead(decoder) else 0)
        for each in drafts.loaded
    )
    host_bytes = start.host_memory_bytes if start.prefix_caching else 0
    expect_host_room(host_bytes)
    if decoder.device.type == "cpu":  # there it is the same memory
        reserved += host_bytes
    request = LongestRequest(limits.max_model_len, start.block_tokens, block_bytes)
    return kv_bytes(decoder.device, reserved, start.kv_cache_bytes, request) // block_bytes


def _longest_draft(start: Start, drafts: Drafts) -> int:
    """Tokens; 0: nobody drafts."""
    drafting = start.speculation == "ngram" or bool(drafts.loaded)
    return start.max_draft_tokens if drafting else 0


def _memory(
    start: Start, cache: KVCache, block_bytes: int
) -> tuple[Memory, Callable[[Copies], None]]:
    """What the scheduler may use, and what carries out its copies to host memory and back."""
    host_bytes = cache.layers[:, 0].nbytes  # of a block: draft models read again
    num_host_blocks = start.host_memory_bytes // host_bytes if start.prefix_caching else 0
    copies = HostCopies(cache, num_host_blocks)
    bound = start.prefix_cache_bytes
    memory = Memory(
        num_blocks=cache.num_blocks,
        block_tokens=cache.block_tokens,
        caching=start.prefix_caching,
        max_cached=None if bound is None else bound // block_bytes,
        num_host_blocks=num_host_blocks,
        load_block_s=copies.seconds_per_block() if num_host_blocks else 0.0,
    )
    return memory, lambda step: copies.run(step.to_host, step.from_host)


def _cache_bytes(memory: Memory, block_bytes: int, bound: int | None) -> int | None:
    """The bound in force: what was asked for, or all memory where that is less."""
    if not memory.caching:
        return None
    if memory.max_cached is not None and memory.max_cached <= memory.num_blocks:
        return bound  # what fills no block more is not missing
    return memory.num_blocks * block_bytes
