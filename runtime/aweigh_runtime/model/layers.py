"""The layers of a decoder as torch computes them, on any device and with gradients."""

from collections.abc import Sequence

import torch

from aweigh_runtime.model.attention import AttentionShape
from aweigh_runtime.model.cache import LayerCache
from aweigh_runtime.model.config import LayerConfig, ModelConfig, Rope
from aweigh_runtime.model.mlp import mlp
from aweigh_runtime.model.norm import norm
from aweigh_runtime.model.projection import Heads, NormedHeads, out_projection
from aweigh_runtime.model.rope import turn_
from aweigh_runtime.model.step_plan import Plan
from aweigh_runtime.model.storage import Storage

CosSin = tuple[torch.Tensor, torch.Tensor]  # [T, 1, turned part of a head] both


class Layers:
    """All layers, and the norm behind them."""

    recordable = False

    def __init__(self, config: ModelConfig, ropes: Sequence[Rope], storage: Storage) -> None:
        self._layers = [
            Layer(config, layer, ropes.index(layer.rope), storage.within(f"layers.{index}"))
            for index, layer in enumerate(config.layers)
        ]
        self._norm = norm(config, storage)
        self.waits = any(layer.experts is not None for layer in config.layers)

    def __call__(
        self,
        hidden: torch.Tensor,
        turns: Sequence[CosSin],
        caches: Sequence[LayerCache],
        step: Plan,
    ) -> torch.Tensor:
        """[T, N] to [rows of logits, N]; `caches` get the new keys and values."""
        for layer, kv in zip(self._layers, caches, strict=True):
            hidden = layer(hidden, turns, kv, step)
        return self._norm(hidden[step.logit_rows])


class Layer:
    """Attention and MLP, each added to its input."""

    def __init__(
        self, config: ModelConfig, layer: LayerConfig, rope: int, storage: Storage
    ) -> None:
        self._attention = Attention(config, layer, rope, storage.within("attention"))
        self._mlp = mlp(config, layer, storage.within("mlp"))

    def __call__(
        self, hidden: torch.Tensor, turns: Sequence[CosSin], kv: LayerCache, step: Plan
    ) -> torch.Tensor:
        """[T, N] to [T, N]; `kv` gets the new keys and values."""
        hidden = hidden + self._attention(hidden, turns, kv, step)
        return hidden + self._mlp(hidden)


class Attention:
    """From hidden states to heads and back, behind a norm."""

    def __init__(
        self, config: ModelConfig, layer: LayerConfig, rope: int, storage: Storage
    ) -> None:
        self._norm = norm(config, storage)
        heads = NormedHeads if config.head_norms else Heads
        self._qkv = heads(config, storage.within("qkv"))
        queries = config.num_heads * config.head_dim
        self._out = out_projection(config, queries, config.out_bias, storage.within("out"))
        self._shape = AttentionShape(
            config.num_heads, config.attention_scale, config.attention_soft_cap, layer.window
        )
        self._attend = storage.arithmetic.attend
        self._rope = rope  # which of the model's
        num_turned = config.num_heads + config.num_kv_heads
        self._turned = (slice(None), slice(num_turned), slice(layer.rope.size))

    def __call__(
        self, hidden: torch.Tensor, turns: Sequence[CosSin], kv: LayerCache, step: Plan
    ) -> torch.Tensor:
        """[T, N] to [T, N]; `kv` gets the new keys and values."""
        heads = self._qkv(self._norm(hidden))  # [T, H+2K, D]
        turn_(heads[self._turned], *turns[self._rope])
        return self._out(self._attend(heads, kv, step, self._shape))
