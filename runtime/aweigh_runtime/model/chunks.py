"""What one request contributes to a step. Pure Python: scheduling needs no tensor library."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of one request's tokens to compute: a prompt, part of a prompt, or one token."""

    start: int  # position of the first token, which is the number of tokens already cached
    num_tokens: int
    blocks: Sequence[int]  # of the KV cache, in the order of the tokens; at least up to `end`
    num_logits: int = 1  # of the chunk's last tokens; 0: part of a prompt, nobody needs them

    @property
    def end(self) -> int:
        """Tokens in the cache once the step is done."""
        return self.start + self.num_tokens
