"""What drafts tokens for answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.sampling.verification import Drafted, Unread


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer that wants a draft."""

    request: Request  # whose tokens have all been read but the last one
    room: int  # most tokens
    floor: (
        float  # what is read is drafted while it stays at least so likely, all before it included
    )


@dataclass(frozen=True, slots=True)
class Proposal:
    """What came of it."""

    drafted: Drafted
    confidences: Sequence[float] = ()  # how likely the likeliest token was, for each place
    ready: bool = True  # False: earlier tokens have to be read first


class Chaining(Protocol):
    """Drafts that the host reads only when they have been verified; see `chained`."""

    def begin(self, asked: Sequence[Asked]) -> Unread | None:
        """Drafts for all that have room, on the device; None: that is not possible now."""
        ...

    def go_on(self, chosen: torch.Tensor, rooms: Sequence[int]) -> None:
        """Launch the next ones behind what a model says of those that `begin` gave last."""
        ...

    def told(self, tokens: Sequence[Sequence[int]], kept: Sequence[int]) -> None:
        """The host has read what became of them."""
        ...


class Proposer(Protocol):
    """Drafts for several answers at once."""

    @property
    def name(self) -> str:
        """For logs and messages."""
        ...

    @property
    def stops_early(self) -> bool:
        """It takes less time if the answers want less than they have asked for."""
        ...

    @property
    def chained(self) -> Chaining | None:
        """What drafts greedy answers without being looked at; None: nothing does."""
        ...

    @property
    def holds_memory(self) -> bool:
        """Of the device."""
        ...

    def propose(self, asked: Sequence[Asked], stays: Sequence[float]) -> list[Proposal]:
        """Draft for each answer that asks.

        Args:
            asked: at least one; each has room for one token at least.
            stays: how often a token stays, by its confidence (see `pace.Calibration`).
        """
        ...

    def release(self) -> None:
        """Give its memory back; it is not asked again."""
        ...
