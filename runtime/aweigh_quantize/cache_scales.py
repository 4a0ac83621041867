"""Scales with which keys and values fit a cache of 8-bit floating point.

They are powers of two: no number format rounds them, and what is divided by one keeps its digits.
A finer choice would gain nothing, as floating point rounds small and large numbers alike.
"""

import torch

from aweigh_quantize.failures import Unusable

_LARGEST = torch.finfo(torch.float8_e4m3fn).max


class CacheScales:
    """Of one layer, from all keys and values that `add` saw."""

    def __init__(self, device: torch.device) -> None:
        self._largest = torch.zeros(2, device=device)  # of keys, and of values

    def add(self, new: torch.Tensor) -> None:
        """Take the keys and values of more tokens into account.

        Args:
            new: [T, 2K, D], keys first, any floating point.

        Raises:
            Unusable: numbers are not finite.
        """
        found = torch.unflatten(new, 1, (2, -1)).abs().amax((0, 2, 3)).float()
        if not torch.isfinite(found).all():
            raise Unusable("keys or values are not finite; expected finite ones")
        self._largest = torch.maximum(self._largest, found)

    def scales(self) -> torch.Tensor:
        """What stored keys and values are multiplied with, [2], fp32: 1 where all were 0.

        The smallest powers of two with which the largest magnitude fits.
        """
        fitting = torch.exp2((self._largest / _LARGEST).log2().ceil())
        return torch.where(self._largest > 0, fitting, torch.ones_like(fitting))
