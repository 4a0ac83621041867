"""Keys and values of all tokens seen so far, in blocks. It stores; it never decides whose."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from aweigh_api.number_formats import KvCacheDTypeName
from aweigh_runtime.model.config import ModelConfig

Index = slice | torch.Tensor  # a slice where the indices are consecutive: then nothing is copied
KvScales = torch.Tensor  # [layers, 2], of keys and values

FP8 = torch.float8_e4m3fn
_LARGEST = torch.finfo(FP8).max


@dataclass(frozen=True, slots=True)
class CacheFormat:
    """In which numbers keys and values are kept."""

    computed: torch.dtype  # in which they are computed and read
    kept: torch.dtype
    scales: KvScales | None = None  # of what is kept as fp8; None: 1

    @classmethod
    def of(cls, computed: torch.dtype, wanted: KvCacheDTypeName, scales: KvScales | None) -> Self:
        """What a server keeps.

        Args:
            computed: in which keys and values are computed.
            wanted: auto: the same.
            scales: of the checkpoint.
        """
        kept = {"auto": computed, "bf16": torch.bfloat16, "fp8": FP8}[wanted]
        return cls(computed, kept, scales if kept == FP8 else None)

    @property
    def stored(self) -> torch.dtype:
        """As memory: few operations take fp8, but all take its bytes."""
        return torch.uint8 if self.kept == FP8 else self.kept


class LayerCache:
    """One layer's keys and values, kept as they are computed."""

    def __init__(self, kv: torch.Tensor) -> None:
        self.kv = kv  # [B, P, 2K, D], keys first
        self.num_kv_heads = kv.shape[2] // 2
        self._rows = kv.flatten(0, 1)

    @property
    def kept(self) -> torch.Tensor:
        """`kv` as the numbers that it holds, [B, P, 2K, D]."""
        return self.kv

    @property
    def scales(self) -> tuple[float, float]:
        """By which kept keys and values are multiplied when they are read."""
        return 1.0, 1.0

    def store(self, new: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """Keep keys and values of new tokens.

        Args:
            new: [T, 2K, D].
            slots: [T], block · P + place in it.

        Returns:
            [T, 2K, D], as they will be read.
        """
        self._rows.index_copy_(0, slots, new)
        return new

    def read(self, blocks: Index) -> torch.Tensor:
        """[n, P, 2K, D]: a view if the blocks follow each other."""
        return self.kv[blocks] if isinstance(blocks, slice) else self._picked(blocks)

    def _picked(self, blocks: torch.Tensor) -> torch.Tensor:
        return self.kv.index_select(0, blocks.flatten())


class RoundedCache(LayerCache):
    """One layer's keys and values in smaller numbers than they are computed in.

    What a token sees is what is kept, also of itself: else an answer would depend on what happens
    to be cached.
    """

    def __init__(self, kv: torch.Tensor, format: CacheFormat, layer: int) -> None:
        super().__init__(kv)
        self._format = format
        self._scale: torch.Tensor | None = None
        self._scales = 1.0, 1.0
        if format.kept == FP8 and format.scales is not None:
            by_kind = format.scales[layer].to(kv.device, format.computed)
            self._scale = by_kind.repeat_interleave(self.num_kv_heads)[:, None]  # [2K, 1]
            self._scales = by_kind[0].item(), by_kind[1].item()

    @property
    def kept(self) -> torch.Tensor:
        """`kv` as the numbers that it holds, [B, P, 2K, D]."""
        return self.kv.view(FP8) if self._format.kept == FP8 else self.kv

    @property
    def scales(self) -> tuple[float, float]:
        """By which kept keys and values are multiplied when they are read."""
        return self._scales

    def store(self, new: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """Round, then keep."""
        if self._format.kept == FP8:
            scaled = new if self._scale is None else new / self._scale
            rounded = scaled.clamp(-_LARGEST, _LARGEST).to(FP8).view(torch.uint8)
        else:
            rounded = new.to(self._format.kept)
        self._rows.index_copy_(0, slots, rounded)
        return self._restored(rounded)

    def read(self, blocks: Index) -> torch.Tensor:
        """[n, P, 2K, D], as computed with."""
        return self._restored(super().read(blocks))

    def _restored(self, rounded: torch.Tensor) -> torch.Tensor:
        kept = rounded.view(FP8) if self._format.kept == FP8 else rounded
        values = kept.to(self._format.computed)
        return values if self._scale is None else values * self._scale


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
        format: CacheFormat,
        device: torch.device,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_tokens = block_tokens
        self.dtype = format.computed
        # A token's keys and values lie side by side: one write stores both, and blocks that follow
        # each other are read without a copy.
        shape = (
            config.num_layers,
            num_blocks,
            block_tokens,
            2 * config.num_kv_heads,  # keys first, then values
            config.head_dim,
        )
        self.layers = _zeros(shape, format.stored, device)  # [layers, B, P, 2K, D]
        self.by_layer = [
            LayerCache(kv) if format.kept == format.computed else RoundedCache(kv, format, index)
            for index, kv in enumerate(self.layers)
        ]

    def clear(self, blocks: torch.Tensor) -> None:
        """Forget what is in blocks [n]."""
        if len(blocks):
            self.layers.index_fill_(1, blocks, 0)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """On a CPU they come from pages that take no memory until they are written."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(pages).view(dtype).view(shape)
