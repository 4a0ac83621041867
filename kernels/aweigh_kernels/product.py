"""What a prepared weight is to its caller."""

from typing import Protocol

import torch


class Product(Protocol):
    """A matrix that is ready to be multiplied with again and again."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[T, K] of the number format it was prepared for, to [T, N].

        Raises:
            ValueError: x has another width.
        """
        ...
