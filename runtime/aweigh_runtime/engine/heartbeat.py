"""Tells a hung engine from a busy one. Pure: time comes in as an argument."""

from collections import deque

FLOOR_S = 10.0
STEPS_FACTOR = 20.0
_REMEMBERED_STEPS = 1000


class Heartbeat:
    """The engine's last sign of life, and how long it may be silent.

    It speaks after every step, and each second while it has nothing to do.
    """

    def __init__(self) -> None:
        self._last_s: float | None = None
        self._steps_s: deque[float] = deque(maxlen=_REMEMBERED_STEPS)

    def beat(self, now_s: float, step_s: float | None) -> None:
        """The engine has spoken, after a step that took so long."""
        self._last_s = now_s
        if step_s is not None:
            self._steps_s.append(step_s)

    @property
    def limit_s(self) -> float:
        """Silence that is still normal: 20 times a slow step, and no less than 10 s."""
        if not self._steps_s:
            return FLOOR_S
        ordered = sorted(self._steps_s)
        return max(FLOOR_S, STEPS_FACTOR * ordered[int(0.99 * (len(ordered) - 1))])

    def silent_s(self, now_s: float) -> float:
        """Time since the last sign of life; 0 before the first, while the model loads."""
        return 0.0 if self._last_s is None else now_s - self._last_s

    def late(self, now_s: float) -> bool:
        """The engine hangs."""
        silent_s = self.silent_s(now_s)
        return silent_s > FLOOR_S and silent_s > self.limit_s
