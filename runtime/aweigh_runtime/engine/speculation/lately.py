"""What drafts have brought in the last seconds, whoever drafted. Pure: time is an argument.

An answer whose drafts are wrong soon asks for none, so that a draft that has gone bad in general
shows in `Pace` only after many answers. What all of them together have gained shows it at once.
"""

WINDOW_S = 5.0
_LEAST_GAIN = 0.03  # tokens of a draft for each step of an answer: with less it cannot pay
_LEAST_ROWS = 32  # that a window must have to tell anything
_MOSTLY = 0.5


class Lately:
    """Judges one window after another."""

    def __init__(self) -> None:
        self.verdict = ""  # why drafts bring nothing; empty: they do, or it is not known
        self.mostly_wrong = False  # by the last verdict
        self._since_s: float | None = None
        self._rows = self._drafted = self._kept = 0

    def advanced(self, rows: int) -> None:
        """A step has advanced so many answers."""
        self._rows += rows

    def verified(self, drafted: int, kept: int) -> None:
        """A draft was verified."""
        self._drafted += drafted
        self._kept += kept

    def look(self, now_s: float) -> None:
        """Judge the window if it is over."""
        if self._since_s is not None and now_s - self._since_s < WINDOW_S:
            return
        if self._drafted and self._rows >= _LEAST_ROWS:
            share = self._kept / self._drafted
            self.mostly_wrong = share < _MOSTLY
            nothing = self._kept < _LEAST_GAIN * self._rows
            self.verdict = self._told(share) if nothing else ""
        self.begin(now_s)

    def begin(self, now_s: float) -> None:
        """Begin a window: what came before it does not count."""
        self._since_s = now_s
        self._rows = self._drafted = self._kept = 0

    def _told(self, share: float) -> str:
        return (
            f"in {self._rows} steps of answers {self._drafted} tokens were drafted, of which "
            f"{share:.0%} stay; answers with wrong drafts go on without"
        )
