"""Steps before a server is ready, so that no request pays for what comes first.

They compile kernels, take the most memory that a step can need, and tell what a step costs.
"""

import time
from collections.abc import Sequence

from aweigh_runtime.engine.loop import Forward
from aweigh_runtime.engine.messages import Sampling
from aweigh_runtime.engine.sampling.choice import Sampler
from aweigh_runtime.engine.sampling.row import Row
from aweigh_runtime.engine.sampling.verification import Drafted
from aweigh_runtime.engine.scheduler import PROMPT_LOGPROBS_TOKENS, Limits
from aweigh_runtime.engine.sizing import PRODUCT_TOKENS, compiled_tokens
from aweigh_runtime.engine.step_fit import Load, Timed
from aweigh_runtime.model.cache import KVCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.reads import FEW

_TIMES = 2  # that each step is timed: the shorter time counts


def compile_all(forward: Forward, decoder: Decoder, limits: Limits, cache: KVCache) -> None:
    """Compute every kind of decode once on a GPU, whose kernels are compiled at their first use.

    What is left of a prompt behind cached tokens is one, too, where it is short. Products of up to
    64 tokens have kernels of their own, those of quantized matrices some for more, and those of
    experts others from one power of two to the next.
    """
    if cache.layers.device.type != "cuda":
        return
    decoder.compile_products(limits.step_tokens)
    room = min(cache.num_blocks * cache.block_tokens, limits.max_model_len)
    blocks = range(cache.num_blocks)
    more = compiled_tokens(limits.step_tokens, experts=decoder.has_experts)
    for count in (*range(1, FEW + 1), *more):
        if count < room:  # rows of logits are products, too
            num_logits = min(count, PRODUCT_TOKENS[-1])
            forward([0] * count, [Chunk(1, count, blocks, num_logits)])
    for requests, count in _kinds(decoder, limits.max_running, cache):
        if count < room and requests > 1:
            one = Chunk(0, 1, blocks, 1)
            chunks = [Chunk(1, count, blocks, 1), *[one] * (requests - 1)]
            forward([0] * (count + requests - 1), chunks)


def _kinds(decoder: Decoder, most_requests: int, cache: KVCache) -> list[tuple[int, int]]:
    """Requests and tokens of steps whose attention is of all kinds that there are."""
    from aweigh_kernels import gpus, paged_attention_gpu  # Triton is not everywhere

    config, kept = decoder.config, cache.by_layer[0].kept
    return paged_attention_gpu.kinds(
        (config.num_heads, config.num_kv_heads),
        paged_attention_gpu.bytes_of_position(config.head_dim, kept.dtype),
        (most_requests, FEW),
        gpus.Gpu.of(decoder.device),
    )


def warm_up(
    forward: Forward, sampler: Sampler, limits: Limits, cache: KVCache, longest_draft: int
) -> None:
    """The largest prompt and the largest batch."""
    prompt, blocks = _largest_prompt(limits, cache), range(cache.num_blocks)
    num_rows = min(limits.max_running, cache.num_blocks)
    # Rows that top_p alone bounds take all there is of sampling, and most memory.
    rows = [Row(Sampling(seed=index, top_p=0.9), prompt=[0]) for index in range(num_rows)]
    scored = min(prompt, PROMPT_LOGPROBS_TOKENS)
    logits = forward([0] * prompt, [Chunk(0, prompt, blocks, scored)])
    sampler.prompt_logprobs(logits, [0] * scored, 1)
    chunks = [Chunk(0, 1, blocks[index : index + 1]) for index in range(len(rows))]
    sampler.choose(forward([0] * len(rows), chunks), rows)
    # As many rows of logits as there can be: all answers draft, if only a little.
    count = min(longest_draft, max(limits.drafted_tokens // num_rows, 1))
    count = min(count, cache.block_tokens - 1, limits.max_model_len - 1)
    if count > 0:
        _verify(forward, sampler, rows[: limits.drafted_tokens], count)


def timed(forward: Forward, sampler: Sampler, limits: Limits, cache: KVCache) -> list[Timed]:
    """The largest prompt; one answer, the largest batch, and an answer behind many tokens.

    All have been computed before: what is compiled is.
    """
    prompt, blocks = _largest_prompt(limits, cache), range(cache.num_blocks)
    num_rows, behind = min(limits.max_running, cache.num_blocks), prompt - 1
    steps = [
        (Load(prompt, 0, 0, 0), [Chunk(0, prompt, blocks)]),
        (Load(0, 1, 1, 0), [Chunk(0, 1, blocks)]),
        (
            Load(0, num_rows, num_rows, 0),
            [Chunk(0, 1, blocks[at : at + 1]) for at in range(num_rows)],
        ),
        (Load(0, 1, prompt, 0), [Chunk(behind, 1, blocks)]),
    ]
    return [Timed(load, _seconds(forward, sampler, chunks)) for load, chunks in steps]


def _seconds(forward: Forward, sampler: Sampler, chunks: Sequence[Chunk]) -> float:
    """Of a step, to the moment when its tokens have been read."""
    tokens = [0] * sum(chunk.num_tokens for chunk in chunks)
    rows = [Row(Sampling(temperature=0.0), prompt=[0]) for _ in chunks]
    found = []
    for _ in range(_TIMES):
        started_s = time.monotonic()
        sampler.choose(forward(tokens, chunks), rows)
        found.append(time.monotonic() - started_s)
    return min(found)


def _largest_prompt(limits: Limits, cache: KVCache) -> int:
    room = cache.num_blocks * cache.block_tokens
    return min(limits.step_tokens, limits.max_model_len, room)


def _verify(forward: Forward, sampler: Sampler, rows: Sequence[Row], count: int) -> None:
    """Drafts of so many tokens for some answers, of each of which much is remembered."""
    num_tokens = len(rows) * (count + 1)
    chunks = [Chunk(0, count + 1, range(index, index + 1), count + 1) for index in range(len(rows))]
    logits = forward([0] * num_tokens, chunks)
    expected = logits.softmax(-1).view(len(rows), count + 1, -1)[:, :count]
    sampler.verify(logits, rows, [Drafted([0] * count, each) for each in expected])
