"""Where a job shows how far it is."""

from typing import Protocol


class Display(Protocol):
    """Shows how far a job is."""

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Another part of it: so many steps, of which some are done already."""
        ...

    def advance(self) -> None:
        """One more step is done."""
        ...


class Quiet:
    """Shows nothing: what is measured is the whole job, not its parts."""

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Nothing."""

    def advance(self) -> None:
        """Nothing."""
