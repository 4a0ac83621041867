"""Texts that a model writes itself, at temperature 1 or 0. The same seed gives the same texts."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch

from aweigh_quantize.texts import Text
from aweigh_runtime.engine.sampling.noise import exponential
from aweigh_runtime.model.cache import CacheFormat, KVCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.footprint import bytes_per_token
from aweigh_runtime.model.memory import available_bytes

AT_ONCE = 64  # texts, where memory holds their keys and values
_MEMORY_SHARE = 4  # of what is free, a fourth
_BLOCK_TOKENS = 16
_SEEDS = 1 << 32  # texts that two seeds have between them

Advance = Callable[[], None]  # one text is finished


@dataclass(frozen=True, slots=True)
class Manner:
    """How texts are written."""

    num_tokens: int  # of each, what is given included, at most
    seed: int = 0
    first: int = 0  # number of the first text: each draws numbers of its own
    greedy: bool = False  # the likeliest token each time
    # They end a text. Without any, the model goes on with the next, as it has learned from packed
    # documents.
    stop_tokens: Collection[int] = ()


@dataclass(slots=True)
class _Draft:
    seed: int
    tokens: list[int]
    num_given: int
    blocks: range = field(default_factory=lambda: range(0))
    num_cached: int = 0


def generate(
    decoder: Decoder, prompts: Sequence[Sequence[int]], manner: Manner, advance: Advance
) -> list[Text]:
    """Continue every prompt, by at least one token."""
    drafts = [
        _Draft(manner.seed * _SEEDS + manner.first + index, list(prompt), len(prompt))
        for index, prompt in enumerate(prompts)
    ]
    blocks_each = -(-manner.num_tokens // _BLOCK_TOKENS)
    size = _at_once(decoder, blocks_each * _BLOCK_TOKENS, len(drafts))
    kept = CacheFormat(decoder.dtype, decoder.dtype)
    cache = KVCache(decoder.config, size * blocks_each, _BLOCK_TOKENS, kept, decoder.device)
    waiting, free = list(reversed(drafts)), list(range(size))
    running: list[tuple[int, _Draft]] = []
    while waiting or running:
        while waiting and free:
            place, draft = free.pop(), waiting.pop()
            draft.blocks = range(place * blocks_each, (place + 1) * blocks_each)
            running.append((place, draft))
        _step(decoder, cache, [draft for _, draft in running], manner.greedy)
        finished = [each for each in running if _is_finished(each[1], manner)]
        for each in finished:
            running.remove(each)
            free.append(each[0])
            advance()
    return [Text(tuple(draft.tokens), draft.num_given) for draft in drafts]


def _is_finished(draft: _Draft, manner: Manner) -> bool:
    return len(draft.tokens) >= manner.num_tokens or draft.tokens[-1] in manner.stop_tokens


def _step(decoder: Decoder, cache: KVCache, drafts: Sequence[_Draft], greedy: bool) -> None:
    """One more token for each."""
    new = [draft.tokens[draft.num_cached :] for draft in drafts]
    chunks = [
        Chunk(draft.num_cached, len(tokens), draft.blocks)
        for draft, tokens in zip(drafts, new, strict=True)
    ]
    packed = torch.tensor([token for tokens in new for token in tokens], device=decoder.device)
    logits = decoder.forward(packed, chunks, cache)
    chosen: list[int] = logits.argmax(-1).tolist() if greedy else _draw(logits, drafts)
    for draft, token in zip(drafts, chosen, strict=True):
        draft.num_cached = len(draft.tokens)
        draft.tokens.append(token)


@torch.inference_mode()
def _draw(logits: torch.Tensor, drafts: Sequence[_Draft]) -> list[int]:
    """By an exponential race, whose noise depends on seed and position alone."""
    device = logits.device
    seeds = torch.tensor([draft.seed for draft in drafts], device=device)
    positions = torch.tensor([len(draft.tokens) for draft in drafts], device=device)
    noise = exponential(seeds, positions, torch.arange(logits.shape[-1], device=device))
    weights = (logits - logits.amax(-1, keepdim=True)).exp_()
    chosen: list[int] = weights.div_(noise).argmax(-1).tolist()
    return chosen


def _at_once(decoder: Decoder, num_tokens: int, num_texts: int) -> int:
    each = num_tokens * bytes_per_token(decoder.config, decoder.dtype.itemsize)
    fitting = available_bytes(decoder.device) // _MEMORY_SHARE // each
    return max(1, min(AT_ONCE, num_texts, fitting))
