"""What is found of one condition."""

from dataclasses import dataclass
from typing import Literal

from aweigh_api.reasons import Reason


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a condition holds, and why."""

    status: Literal["True", "False", "Unknown"]
    reason: Reason
    message: str
