"""What a prepared weight is to its caller, and the one way to multiply where no kernel does."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.functional import linear

from aweigh_kernels.rounding import ByteRounding, Rounded

_AT_ONCE = 1 << 24  # weights that are made dense at once


class Product(Protocol):
    """A matrix that is ready to be multiplied with again and again."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[T, K] of the number format it was prepared for, to [T, N].

        Raises:
            ValueError: x has another width.
        """
        ...


@dataclass(frozen=True, slots=True)
class RoundingProduct:
    """A product that rounds activations first, unless what comes before it has done so."""

    rounding: ByteRounding
    round_rows: Callable[[torch.Tensor], Rounded]
    multiply: Callable[[Rounded], torch.Tensor]

    def __call__(self, x: torch.Tensor | Rounded) -> torch.Tensor:
        """[T, K] to [T, N]; see `Product`."""
        return self.multiply(x if isinstance(x, Rounded) else self.round_rows(x))


def in_parts(
    dense: Callable[[slice], torch.Tensor], shape: tuple[int, int], unit: int = 1
) -> Product:
    """The product with a matrix of which some rows at a time are made dense, in each call.

    Args:
        dense: given a run of rows, those [rows, K], of x's number format.
        shape: N, K.
        unit: runs begin at multiples of it.
    """
    rows, columns = shape
    step = max(_AT_ONCE // columns // unit, 1) * unit
    runs = [slice(first, min(first + step, rows)) for first in range(0, rows, step)]

    def product(x: torch.Tensor) -> torch.Tensor:
        parts = [linear(x, dense(run)) for run in runs]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    return product
