"""Chains of drafted tokens on a CPU, step by step: what graphs do on a GPU."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import count

import pytest
import torch

from aweigh_kernels import draft_line
from aweigh_kernels.draft_line import Lines, Read
from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.scheduler import Lookahead
from aweigh_runtime.engine.speculation.candidates import Candidates
from aweigh_runtime.engine.speculation.speculator import Speculator
from aweigh_runtime.model.chains import Behind, Chained
from aweigh_runtime.model.chunks import Chunk

FOUR = 4
Forward = Callable[[Sequence[int], Sequence[Chunk]], torch.Tensor]


def draft_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """All speculators draft so many tokens for each answer, whether that pays or not."""

    def wanted(speculator: Speculator, request: Request) -> int:
        speculator._candidates.wanted(request)  # it gets a history
        return FOUR

    monkeypatch.setattr(Speculator, "lookahead", lambda self, *_: partial(wanted, self))
    monkeypatch.setattr(Candidates, "expected", lambda *_: FOUR)


def draft_unequally(monkeypatch: pytest.MonkeyPatch, dice: int, longest: int) -> None:
    """They draft another number in each step and for each answer, and in some steps nothing.

    How many an answer may want next, and how many it does want then, are numbers of their own.
    """
    steps = count()

    def thrown(*which: int) -> int:
        number = hash((dice, *which))
        return 1 + number // 10 % longest if number % 10 else 0

    def wanted(speculator: Speculator, request: Request) -> int:
        speculator._candidates.wanted(request)
        return thrown(0, request.id, len(request.tokens))

    def lookahead(speculator: Speculator, *_: object) -> Lookahead | None:
        return partial(wanted, speculator) if thrown(1, next(steps)) else None

    def expected(candidates: Candidates, request: Request) -> int:
        return thrown(2, request.id, len(request.tokens))

    monkeypatch.setattr(Speculator, "lookahead", lookahead)
    monkeypatch.setattr(Candidates, "expected", expected)


class Steps:
    """A `Chain` over any model."""

    def __init__(
        self,
        forward: Forward,
        vocab_size: int,
        block_tokens: int,
        *,
        longest: int,
        most: int = 8,
        width: int | None = None,  # blocks of a request that graphs have been recorded for
    ) -> None:
        self.most_requests, self.longest, self._width = most, longest, width
        self.begun = self.went_on = 0  # behind what the host knows, and behind what it does not
        self.forward = forward
        self._vocab_size, self._block_tokens = vocab_size, block_tokens

    def draft(self, behind: Behind, length: int) -> Chained:
        if behind.drafted.shape[1]:
            self.went_on += 1
        else:
            self.begun += 1
        lines = lines_of(behind.blocks, self.longest, self._block_tokens, self._width)
        going = torch.from_numpy(behind.going.packed())
        last_token = self._vocab_size - 1
        draft_line.follow(behind.chosen, behind.drafted, going, lines, last_token=last_token)
        for place in range(length):
            logits = self._logits(lines, lines.pair if place == 0 else lines.read)
            draft_line.choose(logits, lines, size=self._vocab_size)
        drafts = lines.drafts
        return Chained(drafts.tokens, drafts.confidences, lambda: 0.0)

    def _logits(self, lines: Lines, read: Read) -> torch.Tensor:
        each = len(read.tokens) // len(read.counts)
        live = (read.counts > 0).nonzero().squeeze(-1).tolist()
        tokens: list[int] = []
        chunks: list[Chunk] = []
        for request in live:
            rows = slice(request * each, (request + 1) * each)
            positions, blocks = read.positions[rows].tolist(), lines.table[request].tolist()
            assert positions == list(range(positions[0], positions[0] + each))
            assert int(read.seen[request]) == positions[0] + 1
            slots = [blocks[at // self._block_tokens] * self._block_tokens
                     + at % self._block_tokens for at in positions]  # fmt: skip
            assert read.slots[rows].tolist() == slots
            tokens += read.tokens[rows].tolist()
            chunks.append(Chunk(positions[0], each, blocks, each))
        logits = torch.zeros(len(read.tokens), self._vocab_size)
        if live:
            at = [request * each + row for request in live for row in range(each)]
            logits[at] = self.forward(tokens, chunks)
        return logits


def lines_of(
    tables: Sequence[Sequence[int]], longest: int, block_tokens: int, width: int | None = None
) -> Lines:
    """Of requests that have these blocks; `width`: the most there may be."""
    widest = max(map(len, tables))
    width = widest if width is None else width
    assert widest <= width
    lines = Lines.empty(len(tables), longest, width, block_tokens, torch.device("cpu"))
    for line, blocks in zip(lines.table, tables, strict=True):
        line[: len(blocks)] = torch.tensor(blocks)
    return lines
