"""The layers of a decoder by our own GPU kernels: fewer launches, and less memory moved in each.

What a layer adds to the hidden states is not added at once: the norm behind it does that, while it
reads them in any case. Rounding is torch's. It has no gradients.
"""

from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import linear

from aweigh_kernels import routing
from aweigh_kernels.dense import NARROW
from aweigh_kernels.gated import gated
from aweigh_kernels.paired_matmul import PairedDense
from aweigh_kernels.product import PairedProduct
from aweigh_kernels.rms_norm import MOST_COLUMNS
from aweigh_kernels.rope_write import rope_write
from aweigh_kernels.round_rows import round_gated
from aweigh_kernels.rounding import ByteRounding
from aweigh_kernels.skinny_matmul import MOST_TOKENS, Scratch, skinny_matmul
from aweigh_runtime.model.added_norm import AddedNorm
from aweigh_runtime.model.arithmetic import Fast
from aweigh_runtime.model.attention import AttentionShape, attend_stored
from aweigh_runtime.model.cache import FP8, LayerCache
from aweigh_runtime.model.config import LayerConfig, ModelConfig, Rope
from aweigh_runtime.model.fused_experts import FusedExperts
from aweigh_runtime.model.layers import CosSin
from aweigh_runtime.model.matrix import Activations
from aweigh_runtime.model.projection import Heads, NormedHeads, Projection, out_projection
from aweigh_runtime.model.rope import turn_
from aweigh_runtime.model.step_plan import Plan
from aweigh_runtime.model.storage import Storage

_FP8_SINCE = (8, 9)  # capability of GPUs that convert to it


def takes(config: ModelConfig, dtype: torch.dtype) -> bool:
    """Whether a model's layers can be computed so, on a GPU."""
    return (
        dtype in NARROW
        and config.hidden_size <= MOST_COLUMNS
        and all(
            layer.experts is None or routing.takes(layer.experts.count, layer.experts.per_token)
            for layer in config.layers
        )
    )


class FewRows(Fast):
    """As `Fast`, but products of a few tokens read their weight as fast as memory gives it."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.scratch = Scratch(device)

    def project(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[T, in] to [T, out]."""
        if len(x) > MOST_TOKENS:
            return linear(x, weight, bias)
        return skinny_matmul(x, weight, self.scratch, bias=bias)

    def project_wide(
        self, x: torch.Tensor, weight: torch.Tensor, output: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[T, in] to [T, out], fp32, never rounded to fewer bits: that would be written besides."""
        if output is None:
            output = x.new_empty(len(x), len(weight), dtype=torch.float32)
        if len(x) > MOST_TOKENS:
            return torch.mm(x, weight.t(), out_dtype=torch.float32, out=output)
        return skinny_matmul(x, weight, self.scratch, output=output)


class FusedLayers:
    """All layers, and the norm behind them."""

    def __init__(self, config: ModelConfig, ropes: Sequence[Rope], storage: Storage) -> None:
        self._layers = [
            FusedLayer(config, layer, ropes.index(layer.rope), storage.within(f"layers.{index}"))
            for index, layer in enumerate(config.layers)
        ]
        self._norm = AddedNorm(config, storage)

    @property
    def waits(self) -> bool:
        """See `Stack`: experts whose weights are not all of one kind are."""
        return any(layer.waits for layer in self._layers)

    @property
    def recordable(self) -> bool:
        """See `Stack`."""
        return not self.waits

    def __call__(
        self,
        hidden: torch.Tensor,
        turns: Sequence[CosSin],
        caches: Sequence[LayerCache],
        step: Plan,
    ) -> torch.Tensor:
        """[T, N] to [rows of logits, N]; `hidden` is written over."""
        update = None
        for layer, kv in zip(self._layers, caches, strict=True):
            update = layer(hidden, update, turns, kv, step)
        assert update is not None
        rows = step.logit_rows
        return self._norm(hidden[rows], update[rows])


class FusedLayer:
    """Attention and MLP. What either adds to its input is left to the norm that comes next."""

    def __init__(
        self, config: ModelConfig, layer: LayerConfig, rope: int, storage: Storage
    ) -> None:
        self._attention = FusedAttention(config, layer, rope, storage.within("attention"))
        within = storage.within("mlp")
        self._mlp: FusedMLP | FusedExperts
        if layer.experts is None:
            self._mlp = FusedMLP(config, layer, within)
        else:
            self._mlp = FusedExperts(config, layer, layer.experts, within)

    @property
    def waits(self) -> bool:
        """Whether it waits for the device."""
        return isinstance(self._mlp, FusedExperts) and self._mlp.waits

    def __call__(
        self,
        hidden: torch.Tensor,
        update: torch.Tensor | None,
        turns: Sequence[CosSin],
        kv: LayerCache,
        step: Plan,
    ) -> torch.Tensor:
        """What is still to be added to `hidden`.

        Args:
            hidden: [T, N]; gets `update`, and what attention adds.
            update: [T, N], of the layer before; None: there is none.
            turns: of all rotary embeddings.
            kv: gets the new keys and values.
            step: where they go, and what is seen.

        Returns:
            [T, N].
        """
        return self._mlp(hidden, self._attention(hidden, update, turns, kv, step))


class FusedAttention:
    """From hidden states to heads and back, behind a norm."""

    def __init__(
        self, config: ModelConfig, layer: LayerConfig, rope: int, storage: Storage
    ) -> None:
        self._norm = AddedNorm(config, storage)
        self._heads = StoredHeads(config, layer, storage.within("qkv"))
        queries = config.num_heads * config.head_dim
        self._out = out_projection(config, queries, config.out_bias, storage.within("out"))
        self._shape = AttentionShape(
            config.num_heads, config.attention_scale, config.attention_soft_cap, layer.window
        )
        self._rope = rope  # which of the model's

    def __call__(
        self,
        hidden: torch.Tensor,
        update: torch.Tensor | None,
        turns: Sequence[CosSin],
        kv: LayerCache,
        step: Plan,
    ) -> torch.Tensor:
        """[T, N], to be added to `hidden`; see `FusedLayer`."""
        normed = self._norm.rounded(hidden, update, self._heads.rounding)
        queries, new = self._heads(normed, turns[self._rope], kv, step.slots)
        return self._out(attend_stored(queries, new, kv, step, self._shape))


class StoredHeads:
    """Heads that are turned, and whose keys and values are in the cache."""

    def __init__(self, config: ModelConfig, layer: LayerConfig, storage: Storage) -> None:
        heads = NormedHeads if config.head_norms else Heads
        self._qkv = heads(config, storage)
        self._num_heads, self._size = config.num_heads, config.head_dim
        num_turned = config.num_heads + config.num_kv_heads
        self._turned = (slice(None), slice(num_turned), slice(layer.rope.size))
        whole = layer.rope.size == config.head_dim and not config.head_norms
        self._paired = _paired(self._qkv, storage) if whole else _nothing

    @property
    def rounding(self) -> ByteRounding | None:
        """See `Matrix`."""
        return self._qkv.rounding

    def __call__(
        self, x: Activations, turn: CosSin, kv: LayerCache, slots: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute, turn and keep them.

        Args:
            x: [T, N].
            turn: of each token.
            kv: gets keys and values.
            slots: [T], where.

        Returns:
            queries [T, H, D], and keys and values [T, 2K, D] as they will be read.
        """
        cos, sin = turn
        kept = keeps(kv, cos.dtype, cos.device)
        paired = self._paired()
        if kept and paired is not None and paired.turns(x, self._size):
            heads = paired.turned(x, turn, kv.kept, slots, kv.scales)
        else:
            heads = self._qkv(x)  # [T, H+2K, D]
            if kept:
                rope_write(heads, cos, sin, kv.kept, slots, kv_scales=kv.scales)
        queries, new = heads[:, : self._num_heads], heads[:, self._num_heads :]
        if kept:
            return queries, new
        turn_(heads[self._turned], *turn)
        return queries, kv.store(new, slots)


class FusedMLP:
    """down(activation(gate) · up), behind a norm."""

    def __init__(self, config: ModelConfig, layer: LayerConfig, storage: Storage) -> None:
        size, bias = layer.mlp_size, config.mlp_bias
        self._norm = AddedNorm(config, storage)
        self._gates = Gates(config, size, storage.within("gate_up"))
        self._down = out_projection(config, size, bias, storage.within("down"))

    def __call__(self, hidden: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
        """[T, N], to be added to `hidden`, which gets `update`."""
        normed = self._norm.rounded(hidden, update, self._gates.rounding)
        return self._down(self._gates(normed, self._down.rounding))


class Gates:
    """activation(gate) · up."""

    def __init__(self, config: ModelConfig, size: int, storage: Storage) -> None:
        self._gate_up = Projection(2 * size, config.hidden_size, config.mlp_bias, storage)
        self._activation = config.activation
        self._paired = _paired(self._gate_up, storage)

    @property
    def rounding(self) -> ByteRounding | None:
        """See `Matrix`."""
        return self._gate_up.rounding

    def __call__(self, x: Activations, rounding: ByteRounding | None) -> Activations:
        """[T, N] to [T, M], rounded if the product behind it asks for that, or as it is."""
        paired = self._paired()
        if paired is not None and paired.gates(x, rounding):
            return paired.gated(x, self._activation, rounding)
        gate_up = self._gate_up(x)
        if rounding is None:
            return gated(gate_up, self._activation)
        return round_gated(gate_up, self._activation, rounding)


def keeps(kv: LayerCache, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether our kernel writes what is computed as `dtype` into such a cache."""
    kept = kv.kept.dtype
    return kept == dtype or (kept == FP8 and torch.cuda.get_device_capability(device) >= _FP8_SINCE)


def _paired(projection: Projection, storage: Storage) -> Callable[[], PairedProduct | None]:
    """What multiplies few tokens for it, and does what follows; known once weights are loaded."""
    if not storage.is_dense("weight"):
        return lambda: projection.paired
    assert isinstance(storage.arithmetic, FewRows)
    weights, name = storage.weights, storage.name
    bias = weights.get(f"{name}bias")
    dense = PairedDense(weights[f"{name}weight"], bias, storage.arithmetic.scratch)
    return lambda: dense


def _nothing() -> None:
    """Heads that are turned in part, or have norms, need kernels of their own."""
