"""When to try again and when to give up. It knows nothing of protocols."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from aweigh_runtime.failures import SourceUnreachable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to try."""

    delays_s: tuple[float, ...]  # between attempts that got nothing
    timeout_s: float  # without a byte
    longest_wait_s: float  # whatever a server asks for


THOROUGH = Effort(delays_s=(1.0, 2.0, 4.0, 8.0, 16.0), timeout_s=30.0, longest_wait_s=120.0)
BRIEF = Effort(delays_s=(1.0,), timeout_s=5.0, longest_wait_s=1.0)  # something can do without it


class Transient(Exception):
    """The source failed in a way that may pass, perhaps not before some seconds are over."""

    def __init__(self, message: str, after_s: float = 0.0) -> None:
        super().__init__(message)
        self.after_s = after_s


class Stopped(Exception):
    """Another file failed, or the process is told to go."""


class Patience:
    """Repeats what failed for a moment. Threads may share it."""

    def __init__(self, uri: str, place: str, remedy: str, effort: Effort) -> None:
        self._uri = uri
        self._place = place
        self._remedy = remedy
        self._effort = effort
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Make all threads give up soon."""
        self._stopped.set()

    def expect_running(self) -> None:
        """Raise Stopped after `stop`."""
        if self._stopped.is_set():
            raise Stopped

    def repeat(self, attempt: Callable[[], T], position: Callable[[], int] = lambda: 0) -> T:
        """Repeat `attempt` with growing pauses; begin anew whenever `position` has moved."""
        delays_s = self._effort.delays_s
        failures, before = 0, position()
        while True:
            try:
                return attempt()
            except Transient as error:
                if position() != before:
                    failures, before = 0, position()
                if failures == len(delays_s):
                    raise self._unreachable(error) from error
                asked_s = min(error.after_s, self._effort.longest_wait_s)
                self._stopped.wait(max(delays_s[failures], asked_s))
                self.expect_running()
                failures += 1

    def _unreachable(self, error: Transient) -> SourceUnreachable:
        attempts = len(self._effort.delays_s) + 1
        return SourceUnreachable(
            f"{self._uri} cannot be downloaded from {self._place} after {attempts} attempts in a "
            f"row: {error}; {self._remedy}"
        )
