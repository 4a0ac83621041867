"""Which drafted tokens stay: by their places, and by how sure the draft was. Pure."""

import math
from collections.abc import Sequence

_CONFIDENCES = 20  # bins of `Calibration`
_LEAST_DOUBT = 2.0 ** (-_CONFIDENCES / 2)

MEMORY = 1 - 1 / 64  # weight of what is known against one more verified draft
_DOUBT = 4.0  # drafts' worth of belief in what is not known
_FIRST_GUESS = 0.7  # that a token stays if the one before it has
FADED = 1 / 8  # weight of what was known before, once it may be no longer so


class Acceptance:
    """How often each place of a draft is filled and stays, recent drafts most."""

    def __init__(self, longest: int) -> None:
        self._tried = [0.0] * longest
        self._kept = [0.0] * longest
        self._chances: list[float] | None = None

    def observe(self, asked: int, kept: int) -> None:
        """A draft of at most `asked` tokens was verified: so many of its tokens stayed."""
        for place in range(asked):
            self._tried[place] = MEMORY * self._tried[place] + 1.0
            self._kept[place] = MEMORY * self._kept[place] + (place < kept)
        self._chances = None

    def fade(self) -> None:
        """What was known before counts less from now on."""
        self._tried = [FADED * tried for tried in self._tried]
        self._kept = [FADED * kept for kept in self._kept]
        self._chances = None

    @property
    def chances(self) -> Sequence[float]:
        """P(1), P(2), …: never rising. A place that was not tried goes on as those before it."""
        if self._chances is None:
            self._chances = []
            before, ratio = 1.0, _FIRST_GUESS
            for tried, kept in zip(self._tried, self._kept, strict=True):
                chance = min((kept + _DOUBT * before * ratio) / (tried + _DOUBT), before)
                ratio = chance / before if before > 0 else 0.0
                before = chance
                self._chances.append(chance)
        return self._chances


class Calibration:
    """How often a drafted token stays, by how likely the draft held its likeliest token.

    Each bin has half of the doubt of the one two before it: bin = -2 · log2(1 - confidence), so
    that a draft of many tokens, all of them nearly sure, is told from one that is not. Until
    something is known a draft is believed.
    """

    def __init__(self) -> None:
        self._tried = [_DOUBT] * _CONFIDENCES
        self._kept = [_DOUBT * (1.0 - 2.0 ** (-(each + 0.5) / 2)) for each in range(_CONFIDENCES)]

    def observe(self, confidences: Sequence[float], kept: int) -> None:
        """A draft was verified; tokens after the first that did not stay tell nothing."""
        for place, confidence in enumerate(confidences[: kept + 1]):
            each = _bin_of_confidence(confidence)
            self._tried[each] = MEMORY * self._tried[each] + 1.0
            self._kept[each] = MEMORY * self._kept[each] + (place < kept)

    def fade(self) -> None:
        """What was known before counts less from now on."""
        self._tried = [FADED * tried for tried in self._tried]
        self._kept = [FADED * kept for kept in self._kept]

    @property
    def stays(self) -> list[float]:
        """By bin."""
        return [kept / tried for kept, tried in zip(self._kept, self._tried, strict=True)]


def worthwhile(confidences: Sequence[float], stays: Sequence[float], floor: float) -> int:
    """How many tokens of a draft are worth their time.

    Args:
        confidences: how likely its likeliest token was at each place, before any was drawn: had
            what was drawn a say in where it ends, drafts that end would be another choice.
        stays: `Calibration.stays`.
        floor: how likely all up to a token must stay.
    """
    chance = 1.0
    for place, confidence in enumerate(confidences):
        chance *= stays[_bin_of_confidence(confidence)]
        if chance < floor:
            return place
    return len(confidences)


def _bin_of_confidence(confidence: float) -> int:
    """Logits that are no numbers are not sure of anything."""
    doubt = max(1.0 - confidence, _LEAST_DOUBT) if math.isfinite(confidence) else 1.0
    return min(int(-2.0 * math.log2(doubt)), _CONFIDENCES - 1)
