"""Root mean square norms. Models differ in where they round."""

import torch

from aweigh_runtime.model.config import ModelConfig
from aweigh_runtime.model.storage import Storage


class Norm:
    """Over the hidden dimension."""

    def __init__(self, config: ModelConfig, storage: Storage) -> None:
        self._weight = storage.weight("weight", config.hidden_size)
        self._shape = (config.hidden_size,)
        self._eps = config.rms_norm_eps

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[T, N] to [T, N]."""
        return torch.rms_norm(x, self._shape, self._weight, self._eps)


class WideNorm(Norm):
    """Multiplied in fp32 and then rounded."""

    def __init__(self, config: ModelConfig, storage: Storage) -> None:
        super().__init__(config, storage.wide)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[T, N] to [T, N]."""
        return super().__call__(x.float()).to(x.dtype)


class HeadNorm:
    """Of each query and key head by itself; queries share a weight, and keys do."""

    def __init__(self, config: ModelConfig, storage: Storage) -> None:
        num_heads = config.num_heads + config.num_kv_heads
        chosen = storage.wide if config.norm_less_one else storage
        self._weight = chosen.weight("weight", num_heads, config.head_dim)
        self._shape = (config.head_dim,)
        self._eps = config.rms_norm_eps

    def __call__(self, heads: torch.Tensor) -> None:
        """[T, H+K, D], in place."""
        if torch.is_grad_enabled():  # training needs what is written over
            heads.copy_(self._normed(heads.clone()) * self._weight)
        else:
            torch.mul(self._normed(heads), self._weight, out=heads)

    def _normed(self, heads: torch.Tensor) -> torch.Tensor:
        return torch.rms_norm(heads.to(self._weight.dtype), self._shape, None, self._eps)


def norm(config: ModelConfig, storage: Storage) -> Norm:
    """What the model needs."""
    return (WideNorm if config.norm_less_one else Norm)(config, storage.within("norm"))
