"""What drafts tokens for answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.sampling.verification import Drafted


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer that wants a draft."""

    request: Request  # whose tokens have all been read but the last one
    room: int  # most tokens; at least 1
    floor: float  # a token is drafted while it stays at least so likely, all before it included


@dataclass(frozen=True, slots=True)
class Proposal:
    """What came of it."""

    drafted: Drafted
    confidences: Sequence[float] = ()  # how likely the likeliest token was, for each place
    ready: bool = True  # False: earlier tokens have to be read first


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
    def holds_memory(self) -> bool:
        """Of the device."""
        ...

    def propose(self, asked: Sequence[Asked], stays: Sequence[float]) -> list[Proposal]:
        """Draft for each answer that asks.

        Args:
            asked: at least one.
            stays: how often a token stays, by its confidence (see `pace.Calibration`).
        """
        ...

    def release(self) -> None:
        """Give its memory back; it is not asked again."""
        ...
