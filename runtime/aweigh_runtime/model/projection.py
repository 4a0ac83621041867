"""Products with a weight matrix, and what comes before or behind them."""

import torch

from aweigh_kernels.product import PairedProduct
from aweigh_kernels.rounding import ByteRounding
from aweigh_runtime.model.config import ModelConfig
from aweigh_runtime.model.matrix import Activations
from aweigh_runtime.model.norm import HeadNorm, norm
from aweigh_runtime.model.storage import Storage


class Projection:
    """A matrix, and a bias if the model has one."""

    def __init__(self, out_size: int, in_size: int, bias: bool, storage: Storage) -> None:
        self._matrix = storage.matrix("weight", out_size, in_size)
        self._bias = storage.weight("bias", out_size) if bias else None

    @property
    def rounding(self) -> ByteRounding | None:
        """See `Matrix`."""
        return self._matrix.rounding

    @property
    def paired(self) -> PairedProduct | None:
        """See `Matrix`: a bias is added to what is rounded, before anything follows."""
        return self._matrix.paired if self._bias is None else None

    def __call__(self, x: Activations) -> torch.Tensor:
        """[T, in] to [T, out]."""
        return self._matrix(x, self._bias)


class NormedProjection(Projection):
    """A projection back to the hidden size, and a norm behind it."""

    def __init__(self, config: ModelConfig, in_size: int, bias: bool, storage: Storage) -> None:
        super().__init__(config.hidden_size, in_size, bias, storage)
        self._norm = norm(config, storage)

    def __call__(self, x: Activations) -> torch.Tensor:
        """[T, in] to [T, N]."""
        return self._norm(super().__call__(x))


class Heads(Projection):
    """The heads of all queries, keys and values."""

    def __init__(self, config: ModelConfig, storage: Storage) -> None:
        num_heads = config.num_heads + 2 * config.num_kv_heads
        size = num_heads * config.head_dim
        super().__init__(size, config.hidden_size, config.qkv_bias, storage)
        self._shape = (num_heads, config.head_dim)

    def __call__(self, x: Activations) -> torch.Tensor:
        """[T, N] to [T, H+2K, D]."""
        return super().__call__(x).view(-1, *self._shape)


class NormedHeads(Heads):
    """The same, with a norm for each query and key head."""

    def __init__(self, config: ModelConfig, storage: Storage) -> None:
        super().__init__(config, storage)
        self._norm = HeadNorm(config, storage.within("norm"))
        self._num_normed = config.num_heads + config.num_kv_heads

    def __call__(self, x: Activations) -> torch.Tensor:
        """[T, N] to [T, H+2K, D]."""
        heads = super().__call__(x)
        self._norm(heads[:, : self._num_normed])
        return heads


def out_projection(config: ModelConfig, in_size: int, bias: bool, storage: Storage) -> Projection:
    """The last of attention or MLP, back to the hidden size."""
    if config.norms_after:
        return NormedProjection(config, in_size, bias, storage)
    return Projection(config.hidden_size, in_size, bias, storage)
