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
