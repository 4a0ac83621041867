"""Keys and values of all tokens seen so far, in blocks. It stores; it never decides whose."""

import math

import numpy as np
import torch

from aweigh_runtime.model.config import ModelConfig


class KVCache:
    """`num_blocks` blocks, each with room for `block_tokens` tokens in every layer.

    A block is reused by writing over it: positions beyond a chunk's end are never read, so nothing
    has to be cleared.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_blocks: int,
        block_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_tokens = block_tokens
        # A token's keys and values lie side by side: one write stores both, and blocks that follow
        # each other are read without a copy.
        shape = (
            config.num_layers,
            num_blocks,
            block_tokens,
            2 * config.num_kv_heads,  # keys first, then values
            config.head_dim,
        )
        self.layers = _zeros(shape, dtype, device)  # [layers, B, P, 2K, D]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros, not empty: a masked position has weight 0, and 0 times a stray NaN is NaN.

    On a CPU they come from pages that take no memory until they are written.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(pages).view(dtype).view(shape)
