"""Tokens to vectors, and vectors to logits over the vocabulary."""

from typing import Protocol

import torch

from aweigh_runtime.model.arithmetic import Arithmetic, widened
from aweigh_runtime.model.capping import capped_
from aweigh_runtime.model.config import ModelConfig
from aweigh_runtime.model.matrix import Matrix
from aweigh_runtime.model.storage import Storage


class Embedding:
    """A vector for each token."""

    def __init__(self, config: ModelConfig, storage: Storage) -> None:
        new = storage.columns if config.tie_word_embeddings else storage.weight
        self.weight = new("weight", config.vocab_size, config.hidden_size)

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """[T] to [T, N]."""
        return self.weight[tokens]


class ScaledEmbedding(Embedding):
    """The vectors times a number, which is rounded as the vectors are."""

    def __init__(self, config: ModelConfig, scale: float, storage: Storage) -> None:
        super().__init__(config, storage)
        self._scale = torch.tensor(scale, dtype=storage.dtype).item()

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """[T] to [T, N]."""
        return super().__call__(tokens).mul_(self._scale)


class Head(Protocol):
    """Logits over the vocabulary."""

    def __call__(self, hidden: torch.Tensor, output: torch.Tensor | None = None) -> torch.Tensor:
        """[rows, N] to [rows, V], fp32; in `output`, if there is one."""
        ...


class DenseHead:
    """By a matrix of 16 or 32 bits."""

    def __init__(self, weight: torch.Tensor, arithmetic: Arithmetic) -> None:
        self._weight = weight  # [V, N]
        self._project = arithmetic.project_wide

    def __call__(self, hidden: torch.Tensor, output: torch.Tensor | None = None) -> torch.Tensor:
        """See `Head`."""
        return self._project(hidden, self._weight, output)


class QuantizedHead:
    """By a quantized one."""

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix  # [V, N]

    def __call__(self, hidden: torch.Tensor, output: torch.Tensor | None = None) -> torch.Tensor:
        """See `Head`."""
        return widened(self._matrix(hidden), output)


class CappedHead:
    """Logits that stay between -cap and cap."""

    def __init__(self, head: Head, cap: float) -> None:
        self._head = head
        self._cap = cap

    def __call__(self, hidden: torch.Tensor, output: torch.Tensor | None = None) -> torch.Tensor:
        """See `Head`."""
        return capped_(self._head(hidden, output), self._cap)


def embedding(config: ModelConfig, storage: Storage) -> Embedding:
    """What the model needs."""
    if config.embedding_scale is None:
        return Embedding(config, storage)
    return ScaledEmbedding(config, config.embedding_scale, storage)


def head(config: ModelConfig, embedded: Embedding, storage: Storage) -> Head:
    """What the model needs; tied, it shares the weights of the embedding."""
    found = _uncapped(config, embedded, storage)
    return found if config.logit_soft_cap is None else CappedHead(found, config.logit_soft_cap)


def _uncapped(config: ModelConfig, embedded: Embedding, storage: Storage) -> Head:
    if config.tie_word_embeddings:
        return DenseHead(embedded.weight, storage.arithmetic)
    own, size = storage.within("head"), (config.vocab_size, config.hidden_size)
    if own.is_dense("weight"):
        return DenseHead(own.columns("weight", *size), storage.arithmetic)
    return QuantizedHead(own.matrix("weight", *size))
