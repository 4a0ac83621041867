"""The decoder: tokens in, logits out. It reads and writes the cache and keeps nothing else.

All requests of a step are packed into one row of tokens [T]: projections, norms and the MLP never
see where one request ends; only attention does. In what models differ is decided when the layers
are built from the config; the forward pass asks nothing.
"""

from collections.abc import Sequence

import torch

from aweigh_runtime.model.attention import AttentionShape
from aweigh_runtime.model.cache import KVCache, LayerCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.config import LayerConfig, ModelConfig
from aweigh_runtime.model.mlp import mlp
from aweigh_runtime.model.norm import norm
from aweigh_runtime.model.projection import Heads, NormedHeads, out_projection
from aweigh_runtime.model.rope import angles_of, turn_
from aweigh_runtime.model.step_plan import Plan, plan
from aweigh_runtime.model.storage import Storage
from aweigh_runtime.model.vocabulary import embedding, head

CosSin = tuple[torch.Tensor, torch.Tensor]  # [T, 1, turned part of a head] both


class Decoder:
    """A decoder-only transformer whose shape is its config's."""

    def __init__(self, config: ModelConfig, max_model_len: int, storage: Storage) -> None:
        """Weights are left uninitialised: loading fills them in place."""
        ropes = list(dict.fromkeys(layer.rope for layer in config.layers))
        self.config = config
        self.max_model_len = max_model_len  # tokens of prompt and answer together
        self.dtype = storage.dtype  # of weights, activations and cache
        self.device = storage.device
        self.weights = storage.weights  # by name
        self.matrices = storage.matrices  # those that are quantized, by name
        self.settle = storage.settle  # once they are loaded
        self._embedding = embedding(config, storage.within("embedding"))
        self._layers = [
            Layer(config, layer, ropes.index(layer.rope), storage.within(f"layers.{index}"))
            for index, layer in enumerate(config.layers)
        ]
        self._norm = norm(config, storage)
        self._head = head(config, self._embedding, storage)
        self._angles = [angles_of(rope, max_model_len, storage) for rope in ropes]

    @torch.inference_mode()
    def forward(
        self, tokens: torch.Tensor, chunks: Sequence[Chunk], cache: KVCache
    ) -> torch.Tensor:
        """Compute one step.

        Args:
            tokens: [T], int64, the new tokens of all requests, in the order of `chunks`.
            chunks: [S], where each run of tokens is written and what it sees.
            cache: holds the earlier tokens of each chunk; gets the keys and values of the new ones.

        Returns:
            [sum of num_logits, V], fp32: the logits after each chunk's last `num_logits` tokens.

        Raises:
            IndexError: a chunk lies outside the cache.
        """
        step = plan(chunks, cache)
        cache.clear(step.begun)
        turns = [angles.at(step.positions, self.dtype) for angles in self._angles]
        hidden = self._embedding(tokens)  # [T, N]
        for layer, kv in zip(self._layers, cache.by_layer, strict=True):
            hidden = layer(hidden, turns, kv, step)
        return self._head(self._norm(hidden[step.logit_rows]))


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
