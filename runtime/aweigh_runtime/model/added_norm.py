"""A norm by our own GPU kernels, which adds what a layer gives while it reads it."""

import torch

from aweigh_kernels.rms_norm import rms_norm, rms_norm_rounded
from aweigh_kernels.rounding import ByteRounding
from aweigh_runtime.model.config import ModelConfig
from aweigh_runtime.model.matrix import Activations
from aweigh_runtime.model.norm import Norm
from aweigh_runtime.model.storage import Storage


class AddedNorm(Norm):
    """Of the sum of hidden states and what is to be added to them."""

    def __init__(self, config: ModelConfig, storage: Storage) -> None:
        kept = storage.wide if config.norm_less_one else storage
        super().__init__(config, kept.within("norm"))

    def __call__(self, hidden: torch.Tensor, update: torch.Tensor | None = None) -> torch.Tensor:
        """[T, N] to [T, N]; `hidden` becomes the sum."""
        if update is None:
            return rms_norm(hidden, self._weight, self._eps)
        return rms_norm(update, self._weight, self._eps, residual=hidden)

    def rounded(
        self, hidden: torch.Tensor, update: torch.Tensor | None, rounding: ByteRounding | None
    ) -> Activations:
        """The same, rounded as the product behind it asks for; None: it does not ask."""
        if rounding is None:
            return self(hidden, update)
        if update is None:
            return rms_norm_rounded(hidden, self._weight, self._eps, rounding)
        return rms_norm_rounded(update, self._weight, self._eps, rounding, residual=hidden)
