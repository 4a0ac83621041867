"""The decoder: tokens in, logits out. It reads and writes the cache and keeps nothing else.

All requests of a step are packed into one row of tokens [T]: projections, norms and the MLP never
see where one request ends; only attention does.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import linear, rms_norm, silu

from aweigh_runtime.model.attention import Plan, attend, plan
from aweigh_runtime.model.cache import KVCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.config import ModelConfig
from aweigh_runtime.model.rope import angles, inverse_frequencies, turn


class Decoder(nn.Module):
    """A decoder-only transformer whose shape is its config's."""

    def __init__(
        self, config: ModelConfig, max_model_len: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Weights are left uninitialised: loading fills them in place."""
        super().__init__()
        self.config = config
        self.max_model_len = max_model_len  # tokens of prompt and answer together
        vocabulary = (config.vocab_size, config.hidden_size)
        self.embedding = _empty(vocabulary, dtype, device)  # [V, N]
        self.layers = nn.ModuleList(Layer(config, dtype, device) for _ in range(config.num_layers))
        self.norm = _empty((config.hidden_size,), dtype, device)
        self.head = (
            self.embedding if config.tie_word_embeddings else _empty(vocabulary, dtype, device)
        )
        self._frequencies = inverse_frequencies(config.rope, config.head_dim, device)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, activations and cache."""
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    @torch.inference_mode()
    def forward(
        self, tokens: torch.Tensor, chunks: Sequence[Chunk], cache: KVCache
    ) -> torch.Tensor:
        """Compute one step.

        Args:
            tokens: [T], int64, the new tokens of all requests, in the order of `chunks`.
            chunks: [S], which request each run of tokens belongs to; no slot twice.
            cache: holds the earlier tokens of each slot; gets the keys and values of the new ones.

        Returns:
            [S, V], fp32: the logits after each chunk's last token.

        Raises:
            IndexError: a chunk lies outside the cache.
        """
        step = plan(chunks, cache)
        cos, sin = angles(step.positions, self._frequencies, self.dtype)
        hidden = self.embedding[tokens]  # [T, N]
        for layer, kv in zip(self.layers, cache.layers, strict=True):
            hidden = layer(hidden, cos, sin, kv, step)
        last = hidden[step.last_rows]  # [S, N]
        last = rms_norm(last, self.norm.shape, self.norm, self.config.rms_norm_eps)
        return linear(last, self.head).float()


class Layer(nn.Module):
    """Attention and MLP, each behind a norm and added to its input."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self._eps = config.rms_norm_eps
        self._num_heads = config.num_heads
        self._num_turned = config.num_heads + config.num_kv_heads  # queries and keys
        self._head_dim = config.head_dim
        size, queries = config.hidden_size, config.num_heads * config.head_dim
        keys = config.num_kv_heads * config.head_dim
        in_attention, in_mlp = config.attention_bias, config.mlp_bias
        self.attention_norm = _empty((size,), dtype, device)
        self.qkv = Projection(queries + 2 * keys, size, in_attention, dtype, device)
        self.out = Projection(size, queries, in_attention, dtype, device)
        self.mlp_norm = _empty((size,), dtype, device)
        self.gate_up = Projection(2 * config.mlp_size, size, in_mlp, dtype, device)
        self.down = Projection(size, config.mlp_size, in_mlp, dtype, device)

    def forward(
        self,
        hidden: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        kv: torch.Tensor,
        step: Plan,
    ) -> torch.Tensor:
        """[T, N] to [T, N]; `kv` [slots, 2K, max_len, D] gets the new keys and values."""
        hidden = hidden + self._attention(hidden, cos, sin, kv, step)
        return hidden + self._mlp(hidden)

    def _attention(
        self,
        hidden: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        kv: torch.Tensor,
        step: Plan,
    ) -> torch.Tensor:
        normed = rms_norm(hidden, self.attention_norm.shape, self.attention_norm, self._eps)
        heads = self.qkv(normed).view(hidden.shape[0], -1, self._head_dim)  # [T, H+2K, D]
        turned = heads[:, : self._num_turned]
        turned.copy_(turn(turned, cos, sin))
        output: torch.Tensor = self.out(attend(heads, kv, step, self._num_heads))
        return output

    def _mlp(self, hidden: torch.Tensor) -> torch.Tensor:
        normed = rms_norm(hidden, self.mlp_norm.shape, self.mlp_norm, self._eps)
        gate, up = self.gate_up(normed).chunk(2, -1)  # [T, M] each
        output: torch.Tensor = self.down(silu(gate).mul_(up))
        return output


class Projection(nn.Module):
    """A matrix, and a bias if the model has one."""

    def __init__(
        self, out_size: int, in_size: int, bias: bool, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.weight = _empty((out_size, in_size), dtype, device)
        self.bias = _empty((out_size,), dtype, device) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[T, in] to [T, out]."""
        return linear(x, self.weight, self.bias)


def _empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)
