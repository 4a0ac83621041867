"""Tokens to vectors, and vectors to logits over the vocabulary."""

import torch

from aweigh_runtime.model.capping import capped_
from aweigh_runtime.model.config import ModelConfig
from aweigh_runtime.model.matrix import Dense, Matrix
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


class Head:
    """Logits over the vocabulary."""

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix  # [V, N]

    def __call__(self, hidden: torch.Tensor, output: torch.Tensor | None = None) -> torch.Tensor:
        """[rows, N] to [rows, V], fp32; in `output`, if there is one."""
        logits = self._matrix(hidden)
        return logits.float() if output is None else output.copy_(logits)


class CappedHead(Head):
    """Logits that stay between -cap and cap."""

    def __init__(self, matrix: Matrix, cap: float) -> None:
        super().__init__(matrix)
        self._cap = cap

    def __call__(self, hidden: torch.Tensor, output: torch.Tensor | None = None) -> torch.Tensor:
        """[rows, N] to [rows, V], fp32; in `output`, if there is one."""
        return capped_(super().__call__(hidden, output), self._cap)


def embedding(config: ModelConfig, storage: Storage) -> Embedding:
    """What the model needs."""
    if config.embedding_scale is None:
        return Embedding(config, storage)
    return ScaledEmbedding(config, config.embedding_scale, storage)


def head(config: ModelConfig, embedded: Embedding, storage: Storage) -> Head:
    """What the model needs; tied, it shares the weights of the embedding."""
    if config.tie_word_embeddings:
        matrix: Matrix = Dense(embedded.weight, storage.arithmetic.project)
    else:
        matrix = storage.within("head").matrix("weight", config.vocab_size, config.hidden_size)
    return (
        Head(matrix) if config.logit_soft_cap is None else CappedHead(matrix, config.logit_soft_cap)
    )
