"""What speculation remembers of one answer. Pure Python; the request carries it."""

from array import array
from dataclasses import dataclass, field

from aweigh_runtime.engine.repeats import Index

_DOUBT = 4.0  # tokens of evidence that an answer is like the others
_MEMORY = 0.95  # weight of what is known against one more draft


@dataclass(slots=True)
class Record:
    """How well one proposer's drafts did in this answer, beside what was expected of them."""

    expected: float = 0.0  # tokens that should have stayed
    kept: float = 0.0

    @property
    def ratio(self) -> float:
        """1: as in other answers."""
        return (self.kept + _DOUBT) / (self.expected + _DOUBT)

    def observe(self, expected: float, kept: int) -> None:
        """One draft was verified."""
        self.rest()
        self.expected += expected
        self.kept += kept

    def rest(self) -> None:
        """A step without a draft: what is known becomes older."""
        self.expected *= _MEMORY
        self.kept *= _MEMORY


@dataclass(slots=True)
class Followed:
    """How far a draft model has read an answer, while the answer keeps its blocks."""

    life: int  # of the request
    tokens: int = 0  # whose keys and values the draft has, from the first on
    blocks: "array[int]" = field(default_factory=lambda: array("q"))  # where they are
    ahead: list[int] = field(default_factory=list)  # drafted tokens that it has read after them
    named: int = 0  # blocks that others have been told of


@dataclass(slots=True)
class History:
    """One answer's."""

    proposer: int  # which one drafts for it
    records: dict[int, Record] = field(default_factory=dict)  # by proposer
    followed: dict[str, Followed] = field(default_factory=dict)  # by the draft model's name
    index: Index | None = None

    def record(self, proposer: int) -> Record:
        """A proposer's."""
        return self.records.setdefault(proposer, Record())
