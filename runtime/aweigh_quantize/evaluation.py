"""What a quantized model loses against the dense one: measured token by token, summed by document.

Documents are what is independent; the tokens within one are not. Intervals come from drawing
documents with replacement (bootstrap).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from aweigh_quantize.texts import Text

_DRAWS = 2000
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Document:
    """Sums over the predicted tokens of one text."""

    num_tokens: int
    kl: float  # nats, of the dense model's distribution against the quantized one's
    agreeing: int  # tokens whose likeliest is the same
    dense_loss: float  # nats, minus the logarithm of what each gave the token that came
    loss: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean per token, and an interval that holds the true one in 95 % of all cases."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.low:.4f} to {self.high:.4f})"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A quantized model beside its dense one, over the same documents."""

    documents: tuple[Document, ...]

    @property
    def num_tokens(self) -> int:
        """Predicted ones."""
        return sum(each.num_tokens for each in self.documents)

    @property
    def kl(self) -> Estimate:
        """Nats per token."""
        return mean([each.kl for each in self.documents], self._sizes)

    @property
    def agreement(self) -> Estimate:
        """Share of tokens whose likeliest is the same."""
        return mean([float(each.agreeing) for each in self.documents], self._sizes)

    @property
    def perplexity(self) -> float:
        """Of the quantized model."""
        return math.exp(sum(each.loss for each in self.documents) / self.num_tokens)

    @property
    def dense_perplexity(self) -> float:
        """Of the dense one."""
        return math.exp(sum(each.dense_loss for each in self.documents) / self.num_tokens)

    def excess(self, other: "Evaluation") -> Estimate:
        """By how many nats per token the other's KL exceeds this one's, paired by document.

        Raises:
            ValueError: they were measured on other documents.
        """
        if self._sizes != other._sizes:
            raise ValueError("two evaluations are of other documents; expected the same texts")
        pairs = zip(self.documents, other.documents, strict=True)
        return mean([theirs.kl - mine.kl for mine, theirs in pairs], self._sizes)

    @property
    def _sizes(self) -> list[int]:
        return [each.num_tokens for each in self.documents]


def evaluate(
    texts: Sequence[Text], pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]
) -> Evaluation:
    """Compare two models.

    Args:
        texts: what is predicted.
        pairs: for each text the logits [T, V] of the dense model, and those of the quantized one.
    """
    return Evaluation(tuple(document(text, *pair) for text, pair in zip(texts, pairs, strict=True)))


def document(text: Text, dense: torch.Tensor, quantized: torch.Tensor) -> Document:
    """One text's sums; logits behind each of its tokens, [T, V]."""
    rows = slice(text.num_given - 1, len(text.tokens) - 1)
    expected = dense[rows].float().log_softmax(-1)
    found = quantized[rows].float().log_softmax(-1)
    came = torch.tensor(text.tokens[text.num_given :], device=dense.device)[:, None]
    kl = (expected.exp() * (expected - found)).sum(dtype=torch.float64)
    return Document(
        num_tokens=text.num_predicted,
        kl=kl.item(),
        agreeing=int((expected.argmax(-1) == found.argmax(-1)).sum()),
        dense_loss=-expected.gather(1, came).sum(dtype=torch.float64).item(),
        loss=-found.gather(1, came).sum(dtype=torch.float64).item(),
    )


def mean(sums: Sequence[float], sizes: Sequence[int]) -> Estimate:
    """Per token, of documents with so many tokens each."""
    values = torch.tensor(sums, dtype=torch.float64)
    counts = torch.tensor(sizes, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(sums), (_DRAWS, len(sums)), generator=generator)
    means = values[drawn].sum(1) / counts[drawn].sum(1)
    edges = torch.tensor([(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2], dtype=torch.float64)
    low, high = means.quantile(edges).tolist()
    return Estimate((values.sum() / counts.sum()).item(), low, high)
