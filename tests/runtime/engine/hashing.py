"""A model whose logits are a hash of all tokens that it finds in the cache."""

import hashlib
from collections.abc import Sequence
from typing import cast

import torch

from aweigh_runtime.engine.prefixes import Copies
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.step_inputs import Tokens

VOCABULARY = 8  # few, so that random prompts share prefixes
BLOCK_TOKENS = 4


def hashed(tokens: Sequence[int]) -> list[int]:
    """What its logits are made of, a number for each token of the vocabulary."""
    return list(hashlib.sha256(repr(list(tokens)).encode()).digest()[:VOCABULARY])


def likeliest(tokens: Sequence[int]) -> int:
    """The token that it says next."""
    numbers = hashed(tokens)
    return numbers.index(max(numbers))


def guess(tokens: Sequence[int]) -> int:
    """The same in four cases out of five."""
    return likeliest(tokens) if sum(hashed(tokens)) % 5 else VOCABULARY - 1 - likeliest(tokens)


class Hashing:
    """Computes steps on a cache of tokens. A request that read another's would answer nonsense."""

    def __init__(self, broken: frozenset[int] = frozenset()) -> None:
        self.calls: list[int] = []  # tokens of each step
        self.on_device = 0  # steps whose tokens the host did not know
        self._broken = broken  # lengths at which a certain token makes logits no numbers
        self._cells: dict[tuple[int, int], int] = {}
        self._host: dict[int, list[int | None]] = {}

    def forward(self, tokens: Tokens, chunks: Sequence[Chunk]) -> torch.Tensor:
        """As `loop.Forward`."""
        if isinstance(tokens, torch.Tensor):
            self.on_device += 1
            tokens = cast(list[int], tokens.tolist())
        self.calls.append(len(tokens))
        first = 0
        for chunk in chunks:
            for place, token in enumerate(tokens[first : first + chunk.num_tokens], chunk.start):
                self._cells[self._cell(chunk, place)] = token
            first += chunk.num_tokens
        rows = [
            self._logits(chunk, end)
            for chunk in chunks
            for end in range(chunk.end - chunk.num_logits + 1, chunk.end + 1)
        ]
        return torch.stack(rows) if rows else torch.empty(0, VOCABULARY)

    def copy(self, copies: Copies) -> None:
        """Blocks go to host memory and come back."""
        for block, slot in copies.to_host:
            self._host[slot] = [self._cells.get((block, at)) for at in range(BLOCK_TOKENS)]
        for slot, block in copies.from_host:
            for at, token in enumerate(self._host[slot]):
                if token is not None:
                    self._cells[block, at] = token

    def _logits(self, chunk: Chunk, end: int) -> torch.Tensor:
        read = [self._cells[self._cell(chunk, place)] for place in range(end)]
        if read[-1] == 0 and end in self._broken:
            return torch.full((VOCABULARY,), torch.nan)
        return torch.tensor(hashed(read), dtype=torch.float32) / 64.0

    def _cell(self, chunk: Chunk, place: int) -> tuple[int, int]:
        return int(chunk.blocks[place // BLOCK_TOKENS]), place % BLOCK_TOKENS
