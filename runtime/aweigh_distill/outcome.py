"""What came of distilling a draft."""

from collections.abc import Mapping
from dataclasses import dataclass

from aweigh_distill.acceptance import Acceptance


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of one job; by kind of prompt, `all` last where there are several."""

    acceptance: Mapping[str, Acceptance]  # at temperature 1
    agreement: Mapping[str, Acceptance]  # of greedy choices
    num_training: int  # texts
    num_held_out: int  # prompts
    seconds: float

    @property
    def is_better(self) -> bool:
        """It is surely accepted more often, and surely not worse for greedy answers."""
        return _overall(self.acceptance).gain.low > 0 and not self.is_worse

    @property
    def is_worse(self) -> bool:
        """It is surely accepted less often, be it for greedy answers alone."""
        return any(_overall(each).gain.high < 0 for each in (self.acceptance, self.agreement))


def _overall(found: Mapping[str, Acceptance]) -> Acceptance:
    return list(found.values())[-1]
