"""Tokens to vectors, and vectors to logits over the vocabulary."""

import torch

from aweigh_runtime.model.config import ModelConfig
from aweigh_runtime.model.storage import Storage


class Embedding:
    """A vector for each token."""

    def __init__(self, config: ModelConfig, storage: Storage) -> None:
        new = storage.matrix if config.tie_word_embeddings else storage.weight
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

    def __init__(self, weight: torch.Tensor, storage: Storage) -> None:
        self.weight = weight  # [V, N]
        self._project = storage.arithmetic.project

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, N] to [rows, V], fp32."""
        return self._project(hidden, self.weight).float()


class CappedHead(Head):
    """Logits that stay between -cap and cap."""

    def __init__(self, weight: torch.Tensor, cap: float, storage: Storage) -> None:
        super().__init__(weight, storage)
        self._cap = cap

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, N] to [rows, V], fp32."""
        return super().__call__(hidden).div_(self._cap).tanh_().mul_(self._cap)


def embedding(config: ModelConfig, storage: Storage) -> Embedding:
    """What the model needs."""
    if config.embedding_scale is None:
        return Embedding(config, storage)
    return ScaledEmbedding(config, config.embedding_scale, storage)


def head(config: ModelConfig, embedded: Embedding, storage: Storage) -> Head:
    """What the model needs; tied, it shares the weights of the embedding."""
    weight = embedded.weight
    if not config.tie_word_embeddings:
        vocabulary = (config.vocab_size, config.hidden_size)
        weight = storage.within("head").matrix("weight", *vocabulary)
    if config.logit_soft_cap is None:
        return Head(weight, storage)
    return CappedHead(weight, config.logit_soft_cap, storage)
