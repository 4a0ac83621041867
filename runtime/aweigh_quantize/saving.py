"""When a job that may be killed saves what it has done: often, but in little of its time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

SHARE = 0.05  # of the time
_FIRST_GUESS_S = 0.1  # that saving takes


class Saving:
    """Watches how long saving takes, and asks for it when so much work is worth it."""

    def __init__(self, share: float = SHARE) -> None:
        """`share`: of the time that saving may take; inf: after every step."""
        self._share = share
        self._took_s = _FIRST_GUESS_S
        self._since_s = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Enough was done since the last time."""
        return self._share * (time.monotonic() - self._since_s) >= self._took_s

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Around saving."""
        started_s = time.monotonic()
        yield
        self._since_s = time.monotonic()
        self._took_s = self._since_s - started_s
