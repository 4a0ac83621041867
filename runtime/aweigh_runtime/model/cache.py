"""Keys and values of all tokens seen so far, in blocks. It stores; it never decides whose."""

import math

import numpy as np
import torch

from aweigh_runtime.model.config import ModelConfig


class KVCache:
    """`num_blocks` blocks, each with room for `block_tokens` tokens in every layer.

    A block is cleared when its first tokens are written. Attention reads whole blocks and gives
    weight 0 to what a token must not see, but 0 times a NaN that another request has left there
    would be NaN.
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

    def clear(self, blocks: torch.Tensor) -> None:
        """Forget what is in blocks [n]."""
        if len(blocks):
            self.layers[:, blocks] = 0


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """On a CPU they come from pages that take no memory until they are written."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(pages).view(dtype).view(shape)
