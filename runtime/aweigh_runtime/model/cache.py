"""Keys and values of all tokens seen so far. It stores and hands out; it never decides whose."""

import torch

from aweigh_runtime.model.config import ModelConfig


def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
    """Memory that one token of one request takes in the cache."""
    return config.num_layers * 2 * config.num_kv_heads * config.head_dim * dtype.itemsize


class KVCache:
    """A fixed number of slots, each with room for one request of `max_len` tokens.

    Slots are independent. A slot is reused by writing over it: positions beyond a chunk's end are
    never read, so nothing has to be cleared.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_slots: int,
        max_len: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_slots = num_slots
        self.max_len = max_len
        # Zeros, not empty: a masked position has weight 0, and 0 times a stray NaN is NaN.
        self.layers = torch.zeros(
            config.num_layers,
            num_slots,
            2 * config.num_kv_heads,  # keys first, then values: one write stores both
            max_len,
            config.head_dim,
            dtype=dtype,
            device=device,
        )  # [layers, slots, 2K, max_len, D]
