"""Chains of drafted tokens: each step follows the last one on the device, and nobody looks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from aweigh_kernels.draft_line import Going


@dataclass(frozen=True, slots=True)
class Behind:
    """What R chains begin behind: drafts that a model verifies, be it with no tokens."""

    chosen: torch.Tensor  # [T], int64, on the device: what the model says at each place
    drafted: torch.Tensor  # [R, n], int64, on the device: what was drafted for those places
    going: Going
    blocks: Sequence[Sequence[int]]  # of each request: all that a chain may write is in them
    begun: Sequence[int]  # those that may get their first tokens


@dataclass(frozen=True, slots=True)
class Chained:
    """What was drafted, once the device gets there. The next chains may write over it."""

    tokens: torch.Tensor  # [R, longest chain], int64; behind the end of a chain anything
    confidences: torch.Tensor  # the same, fp32: how likely each was
    seconds: Callable[[], float]  # that it took; to be asked when it is over


class Chain(Protocol):
    """Drafts on the device alone."""

    @property
    def most_requests(self) -> int:
        """At once."""

    @property
    def longest(self) -> int:
        """Tokens of a chain."""

    def draft(self, behind: Behind, length: int) -> Chained:
        """Launch the chains; the device is not waited for.

        Args:
            behind: where they begin.
            length: tokens of the longest, 1 at least; `behind.going` has those of each.
        """
        ...
