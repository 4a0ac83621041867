"""One answer in the making, as scheduler and step loop see it. Pure Python."""

from collections.abc import Set
from dataclasses import dataclass, field

from aweigh_runtime.engine.messages import Sampling, Submission


@dataclass(slots=True, eq=False)
class Request:
    """A prompt and what has been generated after it."""

    id: int
    tokens: list[int]  # the prompt, then the answer
    num_prompt_tokens: int
    max_tokens: int  # prompt and answer together
    stop_tokens: Set[int] = frozenset()
    sampling: Sampling = field(default_factory=Sampling)
    slot: int = -1  # of the KV cache; -1 while it waits
    computed: int = 0  # tokens whose keys and values are in the cache

    @classmethod
    def of(cls, submission: Submission) -> "Request":
        """The request that a message asks for."""
        return cls(
            id=submission.id,
            tokens=submission.prompt,
            num_prompt_tokens=len(submission.prompt),
            max_tokens=len(submission.prompt) + submission.max_tokens,
            stop_tokens=frozenset(submission.stop_tokens),
            sampling=submission.sampling,
        )

    @property
    def pending(self) -> int:
        """Tokens that the model has not read yet."""
        return len(self.tokens) - self.computed
