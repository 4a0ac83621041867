"""The decoder: tokens in, logits out. It reads and writes the cache and keeps nothing else.

All requests of a step are packed into one row of tokens [T]: projections, norms and the MLP never
see where one request ends; only attention does. In what models differ is decided when the layers
are built from the config; the forward pass asks nothing.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from aweigh_kernels.product import compile_all
from aweigh_runtime.model.cache import KVCache, LayerCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.config import ModelConfig, Rope
from aweigh_runtime.model.layers import CosSin, Layers
from aweigh_runtime.model.rope import angles_of
from aweigh_runtime.model.step_plan import Plan, on_device, plan
from aweigh_runtime.model.storage import Storage
from aweigh_runtime.model.vocabulary import embedding, head


class Stack(Protocol):
    """All layers, and the norm behind them."""

    @property
    def recordable(self) -> bool:
        """Whether they launch the same kernels for every step of a size; known once loaded."""

    @property
    def waits(self) -> bool:
        """Whether a step waits for the device; known once loaded."""

    def __call__(
        self,
        hidden: torch.Tensor,
        turns: Sequence[CosSin],
        caches: Sequence[LayerCache],
        step: Plan,
    ) -> torch.Tensor:
        """[T, N] to [rows of logits, N]; `hidden` may be written over."""


BuildStack = Callable[[ModelConfig, Sequence[Rope], Storage], Stack]


class Decoder:
    """A decoder-only transformer whose shape is its config's."""

    def __init__(
        self,
        config: ModelConfig,
        max_model_len: int,
        storage: Storage,
        layers: BuildStack = Layers,
    ) -> None:
        """Weights are left uninitialised: loading fills them in place."""
        self.config = config
        self.max_model_len = max_model_len  # tokens of prompt and answer together
        self.dtype = storage.dtype  # of weights, activations and cache
        self.device = storage.device
        self.weights = storage.weights  # by name
        self.matrices = storage.matrices  # those that are quantized, by name
        self.settle = storage.settle  # once they are loaded
        self._embedding = embedding(config, storage.within("embedding"))
        self._layers = layers(config, config.ropes, storage)
        self._head = head(config, self._embedding, storage)
        self._angles = [angles_of(rope, max_model_len, storage) for rope in config.ropes]

    @property
    def recordable(self) -> bool:
        """Whether graphs can hold its steps, now that it is loaded."""
        quantized = (matrix for each in self.matrices.values() for matrix in each)
        return self._layers.recordable and all(matrix.recordable for matrix in quantized)

    @property
    def waits(self) -> bool:
        """Whether a step waits for the device: which experts have tokens may be asked of it."""
        return self._layers.waits

    @property
    def has_experts(self) -> bool:
        """Whether tokens are multiplied with matrices of their own."""
        return any(layer.experts is not None for layer in self.config.layers)

    @torch.inference_mode()
    def compile_products(self, most_tokens: int) -> None:
        """Compile what quantized matrices need in steps of up to so many tokens; see `forward`."""
        quantized = (matrix for each in self.matrices.values() for matrix in each)
        compile_all((product for matrix in quantized for product in matrix.products), most_tokens)

    @torch.inference_mode()
    def forward(
        self, tokens: Sequence[int] | torch.Tensor, chunks: Sequence[Chunk], cache: KVCache
    ) -> torch.Tensor:
        """Compute one step. The device is never waited for, unless the decoder `waits`.

        Args:
            tokens: [T], the new tokens of all requests, in the order of `chunks`; on the device
                int64.
            chunks: [S], where each run of tokens is written and what it sees.
            cache: holds the earlier tokens of each chunk; gets the keys and values of the new ones.

        Returns:
            [sum of num_logits, V], fp32: the logits after each chunk's last `num_logits` tokens.

        Raises:
            IndexError: a chunk lies outside the cache.
        """
        step = plan(chunks, cache)
        cache.clear(step.begun)
        if not isinstance(tokens, torch.Tensor):
            tokens = on_device(np.array(tokens, np.int64), self.device)
        return self.compute(tokens, cache.by_layer, step)

    def compute(
        self,
        tokens: torch.Tensor,
        layers: Sequence[LayerCache],
        step: Plan,
        output: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The same for a step that is planned already; gradients flow through it.

        Args:
            tokens: [T], int64.
            layers: each one's keys and values.
            step: `forward`'s chunks as they lie in the cache.
            output: [sum of num_logits, V], fp32. None: new memory.

        Returns:
            As `forward`.
        """
        turns = [angles.at(step.positions, self.dtype) for angles in self._angles]
        hidden = self._embedding(tokens)  # [T, N]
        return self._head(self._layers(hidden, turns, layers, step), output)
