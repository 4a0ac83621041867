"""What one request contributes to a step. Pure Python: scheduling needs no tensor library."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of one request's tokens to compute: a prompt, part of a prompt, or one token."""

    slot: int  # of the KV cache; a request keeps its slot until it is done
    start: int  # position of the first token, which is the number of tokens already cached
    num_tokens: int

    @property
    def end(self) -> int:
        """Tokens in the cache once the step is done."""
        return self.start + self.num_tokens
