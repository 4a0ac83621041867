"""Tells a hung engine from a busy one. Pure: time comes in as an argument."""

from collections import deque

FLOOR_S = 10.0
STEPS_FACTOR = 20.0  # times a slow step: one in a hundred is slower
LONGEST_FACTOR = 2.0  # times the longest one: what it had to compute may come again,
LONGEST_KEPT_S = 60.0  # for so long: else one slow step hid for hours that the engine hangs
FIRST_FACTOR = 3.0  # times the largest step of the warm-up, which reads no cache yet
_REMEMBERED_STEPS = 1000


class Heartbeat:
    """The engine's last sign of life, and how long it may be silent.

    It speaks after every step, and each second while it has nothing to do.
    """

    def __init__(self) -> None:
        self._last_s: float | None = None
        self._steps: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED_STEPS)  # end, duration
        self._first_s = 0.0

    def start(self, now_s: float, largest_step_s: float) -> None:
        """The engine is ready, and has tried the largest step."""
        self._last_s = now_s
        self._first_s = largest_step_s

    def beat(self, now_s: float, step_s: float | None) -> None:
        """The engine has spoken, after a step that took so long."""
        self._last_s = now_s
        if step_s is not None:
            self._steps.append((now_s, step_s))

    @property
    def limit_s(self) -> float:
        """Silence that is still normal, by the steps that there were; no less than 10 s.

        Silence itself ages no step: what came right before it counts until it ends.
        """
        ordered = sorted(duration_s for _, duration_s in self._steps)
        slow_s = ordered[int(0.99 * (len(ordered) - 1))] if len(ordered) > 1 else 0.0
        return max(
            FLOOR_S,
            STEPS_FACTOR * slow_s,
            LONGEST_FACTOR * self._longest_s(),
            FIRST_FACTOR * self._first_s,
        )

    def _longest_s(self) -> float:
        """Of the steps of late."""
        since_s = (self._last_s or 0.0) - LONGEST_KEPT_S
        return max((each_s for ended_s, each_s in self._steps if ended_s >= since_s), default=0.0)

    def silent_s(self, now_s: float) -> float:
        """Time since the last sign of life; 0 before the first, while the model loads."""
        return 0.0 if self._last_s is None else now_s - self._last_s

    def late(self, now_s: float) -> bool:
        """The engine hangs."""
        silent_s = self.silent_s(now_s)
        return silent_s > FLOOR_S and silent_s > self.limit_s
