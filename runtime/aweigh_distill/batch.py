"""Texts that a target and its draft predict in one go."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from aweigh_quantize.texts import Text, batches
from aweigh_runtime.model.cache import CacheFormat, KVCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.decoder import Decoder

_BLOCK_TOKENS = 16
_LOGITS = 1 << 25  # of a batch, at most: a loss holds several times as many numbers


@dataclass(frozen=True, slots=True)
class Batch:
    """Some texts, each a request of its own."""

    tokens: torch.Tensor  # [T], without the last one of each text
    chunks: Sequence[Chunk]
    num_predicted: Sequence[int]  # tokens of each text; R together

    @property
    def num_rows(self) -> int:
        """R, of logits."""
        return sum(self.num_predicted)


def batch_of(texts: Sequence[Text], device: torch.device) -> Batch:
    """One batch."""
    tokens = [token for text in texts for token in text.tokens[:-1]]
    chunks, first = [], 0
    for text in texts:
        count = len(text.tokens) - 1
        blocks = range(first, first + _blocks(count))
        chunks.append(Chunk(0, count, blocks, text.num_predicted))
        first = blocks.stop
    counts = [text.num_predicted for text in texts]
    return Batch(torch.tensor(tokens, device=device), chunks, counts)


def in_parts(texts: Sequence[Text], vocab_size: int) -> Iterator[Sequence[Text]]:
    """As few batches as the memory that logits take allows."""
    for run in batches([len(text.tokens) for text in texts], _most_tokens(vocab_size)):
        yield [texts[index] for index in run]


def new_cache(decoder: Decoder, texts: Sequence[Text], vocab_size: int) -> KVCache:
    """With room for every batch that `in_parts` makes of some of these texts, in any order."""
    blocks = [_blocks(len(text.tokens)) for text in texts]
    per_token = max(n / len(text.tokens) for n, text in zip(blocks, texts, strict=True))
    most = max(max(blocks), math.ceil(per_token * _most_tokens(vocab_size)))
    kept = CacheFormat(decoder.dtype, decoder.dtype)
    num_blocks = min(sum(blocks), most)
    return KVCache(decoder.config, num_blocks, _BLOCK_TOKENS, kept, decoder.device)


def _most_tokens(vocab_size: int) -> int:
    return max(1, _LOGITS // vocab_size)


def _blocks(num_tokens: int) -> int:
    return -(-num_tokens // _BLOCK_TOKENS)
