"""What came of quantizing a model: what it lost, and what it weighs."""

from collections.abc import Mapping
from dataclasses import dataclass

from aweigh_quantize.evaluation import Evaluation
from aweigh_quantize.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes on disk."""

    dense: int  # of all weight files
    written: int
    dense_matrices: int  # of the matrices that were quantized
    matrices: int  # what they take now, scales and all
    num_weights: int  # in those matrices

    @property
    def bits(self) -> float:
        """Of a weight in a quantized matrix, scales and all."""
        return 8 * self.matrices / max(self.num_weights, 1)

    @property
    def ratio(self) -> float:
        """How much smaller the quantized matrices are."""
        return self.dense_matrices / max(self.matrices, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of one job."""

    recipe: Recipe
    layout: str  # how the weights are stored, in words
    losses: Mapping[str, Evaluation]  # by the name of the texts; those held out come first
    sizes: Sizes
    seconds: float

    @property
    def loss(self) -> Evaluation:
        """On the texts that were held out."""
        return next(iter(self.losses.values()))
