"""Models loaded as a server loads them: what layer-by-layer figures are compared with."""

from pathlib import Path

import torch

from aweigh_runtime.model.cache import CacheFormat, KVCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.load import Wish, load
from tests.quantize.jobs import CPU

BLOCK_TOKENS = 16


def loaded(folder: Path) -> Decoder:
    return load(folder, Wish(dtype="fp32"), CPU, lambda done, total: None).decoder


def logits(decoder: Decoder, tokens: tuple[int, ...]) -> torch.Tensor:
    """Behind each token of a text, [T, V]."""
    blocks = range(-(-len(tokens) // BLOCK_TOKENS))
    kept = CacheFormat(torch.float32, torch.float32)
    cache = KVCache(decoder.config, len(blocks), BLOCK_TOKENS, kept, CPU)
    chunks = [Chunk(0, len(tokens), blocks, len(tokens))]
    return decoder.forward(torch.tensor(tokens), chunks, cache)
