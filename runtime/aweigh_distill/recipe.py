"""How a draft is trained."""

from dataclasses import dataclass

BEGINNINGS = 6144  # one fresh text teaches more than a second answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Each field is a flag of `aweigh distill`."""

    answers: int = 8  # to each prompt: a greedy one, then others drawn at temperature 1
    beginnings: int = BEGINNINGS  # of prose, by the target itself, that it goes on with
    text_tokens: int = 160  # of a prompt and its answer, at most
    steps: int = 800
    step_tokens: int = 1024  # about
    learning_rate: float | None = None  # None: by the draft's width
    seed: int = 0
