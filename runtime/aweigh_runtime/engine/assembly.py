"""Puts model and cache on the device and joins them to the step loop."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from aweigh_api.number_formats import KvCacheDTypeName, SchemeName
from aweigh_api.spec import DTypeName
from aweigh_runtime.engine.grammars import Grammars
from aweigh_runtime.engine.loop import Engine, Forward
from aweigh_runtime.engine.messages import Ready, Sampling, Start
from aweigh_runtime.engine.out_of_memory import return_unused_memory
from aweigh_runtime.engine.prefixes import Copies, Memory
from aweigh_runtime.engine.room import LongestRequest, expect_host_room, kv_bytes, peak_bytes
from aweigh_runtime.engine.sampling.choice import Sampler
from aweigh_runtime.engine.sampling.row import Row
from aweigh_runtime.engine.sampling.verification import Drafted
from aweigh_runtime.engine.scheduler import PROMPT_LOGPROBS_TOKENS, Limits, Scheduler
from aweigh_runtime.engine.sizing import STEP_TOKENS
from aweigh_runtime.engine.speculation.draft_model import Frame
from aweigh_runtime.engine.speculation.loading import (
    Drafts,
    Fetched,
    Proposers,
    load_drafts,
    proposers,
    speculator,
)
from aweigh_runtime.engine.threads import use_threads
from aweigh_runtime.failures import InvalidConfiguration, ModelDoesNotFit
from aweigh_runtime.model.cache import FP8, CacheFormat, KVCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.footprint import bytes_per_token
from aweigh_runtime.model.host_copy import HostCopies
from aweigh_runtime.model.load import Loaded, Wish, load
from aweigh_runtime.model.random_weights import make_up
from aweigh_runtime.model.reads import FEW
from aweigh_runtime.model.stepping import launched, recorded, recorded_bytes
from aweigh_runtime.text.defaults import stop_tokens_of

_FEW_ROWS = (32, 64)
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
    _compile(launched(decoder, cache), decoder, limits, cache)
    forward = recorded(decoder, cache, limits.max_running, _longest_draft(start, drafts))
    largest_s = _warm_up(forward, sampler, limits, cache, _longest_draft(start, drafts))

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
        prefix_cache_bytes=_cache_bytes(memory, block_bytes),
        largest_step_s=largest_s,
    )
    return Parts(
        scheduler=Scheduler(limits, memory),
        forward=forward,
        sampler=sampler,
        compiler=compiler,
        copy=copy,
        proposers=proposers(start, drafts, frame, num_blocks),
        ready=ready,
        runs_ahead=device.type == "cuda" and not decoder.waits,
    )


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
        _warm_up(launched(decoder, cache), sampler, limits, cache, longest)

    reserved = peak_bytes(decoder.device, largest_step)
    reserved += recorded_bytes(decoder, limits.max_running, _longest_draft(start, drafts))
    reserved += sum(recorded_bytes(each.decoder, limits.max_running) for each in drafts.loaded)
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


def _cache_bytes(memory: Memory, block_bytes: int) -> int | None:
    if not memory.caching:
        return None
    blocks = memory.num_blocks if memory.max_cached is None else memory.max_cached
    return min(blocks, memory.num_blocks) * block_bytes


def _compile(forward: Forward, decoder: Decoder, limits: Limits, cache: KVCache) -> None:
    """Compute every kind of decode once on a GPU, whose kernels are compiled at their first use.

    What is left of a prompt behind cached tokens is one, too, where it is short. Products of up to
    64 tokens have kernels of their own.
    """
    if cache.layers.device.type != "cuda":
        return
    room = min(cache.num_blocks * cache.block_tokens, limits.max_model_len)
    blocks = range(cache.num_blocks)
    for count in (*range(1, FEW + 1), *_FEW_ROWS):
        if count < room:
            forward([0] * count, [Chunk(1, count, blocks, 1)])
    for requests, count in _kinds(decoder, limits.max_running, cache):
        if count < room and requests > 1:
            one = Chunk(0, 1, blocks, 1)
            chunks = [Chunk(1, count, blocks, 1), *[one] * (requests - 1)]
            forward([0] * (count + requests - 1), chunks)


def _kinds(decoder: Decoder, most_requests: int, cache: KVCache) -> list[tuple[int, int]]:
    """Requests and tokens of steps whose attention is of all kinds that there are."""
    from aweigh_kernels import paged_attention_gpu  # Triton is not everywhere

    config, kept = decoder.config, cache.by_layer[0].kept
    return paged_attention_gpu.kinds(
        (config.num_heads, config.num_kv_heads),
        paged_attention_gpu.bytes_of_position(config.head_dim, kept.dtype),
        (most_requests, FEW),
        paged_attention_gpu.Gpu.of(decoder.device),
    )


def _warm_up(
    forward: Forward, sampler: Sampler, limits: Limits, cache: KVCache, longest_draft: int
) -> float:
    """The largest prompt and the largest batch, so that no request pays for what comes first.

    Returns:
        seconds that the prompt took.
    """
    room = cache.num_blocks * cache.block_tokens
    prompt = min(limits.step_tokens, limits.max_model_len, room)
    blocks = range(cache.num_blocks)
    num_rows = min(limits.max_running, cache.num_blocks)
    # Rows that top_p alone bounds take all there is of sampling, and most memory.
    rows = [Row(Sampling(seed=index, top_p=0.9), prompt=[0]) for index in range(num_rows)]
    scored = min(prompt, PROMPT_LOGPROBS_TOKENS)
    started_s = time.monotonic()
    logits = forward([0] * prompt, [Chunk(0, prompt, blocks, scored)])
    sampler.prompt_logprobs(logits, [0] * scored, 1)  # its numbers are read: the step has ended
    prompt_s = time.monotonic() - started_s
    chunks = [Chunk(0, 1, blocks[index : index + 1]) for index in range(len(rows))]
    sampler.choose(forward([0] * len(rows), chunks), rows)
    # As many rows of logits as there can be: all answers draft, if only a little.
    count = min(longest_draft, max(limits.drafted_tokens // num_rows, 1))
    count = min(count, cache.block_tokens - 1, limits.max_model_len - 1)
    if count > 0:
        _verify(forward, sampler, rows[: limits.drafted_tokens], count)
    return prompt_s


def _verify(forward: Forward, sampler: Sampler, rows: Sequence[Row], count: int) -> None:
    """Drafts of so many tokens for some answers, of each of which much is remembered."""
    num_tokens = len(rows) * (count + 1)
    chunks = [Chunk(0, count + 1, range(index, index + 1), count + 1) for index in range(len(rows))]
    logits = forward([0] * num_tokens, chunks)
    expected = logits.softmax(-1).view(len(rows), count + 1, -1)[:, :count]
    sampler.verify(logits, rows, [Drafted([0] * count, each) for each in expected])
