"""Where requests stand whose tokens are drafted on the device alone, and how each step moves them.

The steps are by torch, on any device: the reference of `draft_chain`, which says what for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

PAIR = 2  # tokens that a chain begins with: those that its draft may not have read


@dataclass(frozen=True, slots=True)
class Read:
    """What a step of S requests with E tokens each reads; on the device, changed in place."""

    tokens: torch.Tensor  # [S · E], int64
    positions: torch.Tensor  # [S · E], int64
    slots: torch.Tensor  # [S · E], int64: block · P + place in it; -1: padding
    counts: torch.Tensor  # [S], int32: tokens; 0: padding
    seen: torch.Tensor  # [S], int32: positions that the first one sees

    @classmethod
    def empty(cls, num_requests: int, each: int, device: torch.device) -> "Read":
        """Padding alone."""
        rows = torch.zeros(3, num_requests * each, dtype=torch.int64, device=device)
        rows[2] = -1
        return cls(*rows, *torch.zeros(2, num_requests, dtype=torch.int32, device=device))

    def first(self, num_requests: int) -> "Read":
        """Of the first requests."""
        rows = num_requests * (len(self.tokens) // len(self.counts))
        return Read(
            self.tokens[:rows],
            self.positions[:rows],
            self.slots[:rows],
            self.counts[:num_requests],
            self.seen[:num_requests],
        )


@dataclass(frozen=True, slots=True)
class DraftTokens:
    """What is drafted for S requests; on the device, changed in place."""

    tokens: torch.Tensor  # [S, K], int64
    confidences: torch.Tensor  # [S, K], fp32: how likely each was
    places: torch.Tensor  # [S], int32: how many there are
    rooms: torch.Tensor  # [S], int32: how many there may be, at most K

    def first(self, num_requests: int) -> "DraftTokens":
        """Of the first requests."""
        return DraftTokens(
            self.tokens[:num_requests],
            self.confidences[:num_requests],
            self.places[:num_requests],
            self.rooms[:num_requests],
        )


@dataclass(frozen=True, slots=True)
class Lines:
    """Where S requests stand."""

    pair: Read  # what the first step of a chain reads: two tokens of each request
    read: Read  # what the others read: one
    drafts: DraftTokens
    table: torch.Tensor  # [S, W], int32: blocks of each request
    block_tokens: int  # P

    @classmethod
    def empty(
        cls, num_requests: int, longest: int, width: int, block_tokens: int, device: torch.device
    ) -> "Lines":
        """For chains of `longest` tokens and requests of `width` blocks; there are none yet."""
        places, rooms = torch.zeros(2, num_requests, dtype=torch.int32, device=device)
        tokens = torch.zeros(num_requests, longest, dtype=torch.int64, device=device)
        return cls(
            Read.empty(num_requests, PAIR, device),
            Read.empty(num_requests, 1, device),
            DraftTokens(tokens, tokens.float(), places, rooms),
            torch.zeros(num_requests, width, dtype=torch.int32, device=device),
            block_tokens,
        )

    def first(self, num_requests: int) -> "Lines":
        """Of the first requests."""
        return Lines(
            self.pair.first(num_requests),
            self.read.first(num_requests),
            self.drafts.first(num_requests),
            self.table[:num_requests],
            self.block_tokens,
        )


@dataclass(frozen=True, slots=True)
class Going:
    """R requests whose drafts are verified on the device, as the host knows them."""

    firsts: Sequence[int]  # the first token of each in what the model says
    counts: Sequence[int]  # drafted tokens that are verified: it says one more
    ends: Sequence[int]  # tokens of each without any of these, 1 at least
    lasts: Sequence[int]  # the last of them
    rooms: Sequence[int]  # tokens that may be drafted next

    def packed(self) -> NDArray[np.int64]:
        """[5, R], for `follow`."""
        return np.array([self.firsts, self.counts, self.ends, self.lasts, self.rooms], np.int64)


def choose(logits: torch.Tensor, lines: Lines, *, size: int) -> None:
    """See `draft_chain.choose`."""
    read, drafts = lines.read, lines.drafts
    each = len(logits) // len(read.counts)
    wanted = logits[each - 1 :: each, :size]
    best, tokens = wanted.max(dim=-1)
    confidence = (wanted - best.unsqueeze(-1)).exp_().sum(dim=-1).reciprocal_()
    for request in (read.counts > 0).nonzero().squeeze(-1).tolist():
        place = int(drafts.places[request])
        drafts.tokens[request, place] = tokens[request]
        drafts.confidences[request, place] = confidence[request]
        drafts.places[request] += 1
        if place + 1 < int(drafts.rooms[request]):
            read.tokens[request] = tokens[request]
            read.positions[request] += 1
            read.seen[request] += 1
            read.slots[request] = _slot(lines, request, int(read.positions[request]))
        else:
            read.counts[request] = 0
            read.slots[request] = -1


def follow(
    chosen: torch.Tensor,
    drafted: torch.Tensor,
    going: torch.Tensor,
    lines: Lines,
    *,
    last_token: int,
) -> None:
    """See `draft_chain.follow`."""
    pair, read, drafts = lines.pair, lines.read, lines.drafts
    for each in (pair.counts, pair.seen, read.counts, read.seen, drafts.places, drafts.rooms):
        each.zero_()
    pair.slots.fill_(-1)
    read.slots.fill_(-1)
    for request, (first, count, end, last, room) in enumerate(going.t().tolist()):
        says = chosen[first : first + count + 1].tolist()
        kept = 0
        while kept < count and says[kept] == drafted[request, kept]:
            kept += 1
        before = says[kept - 1] if kept else last
        position = end - 1 + kept
        for place, token in enumerate((before, says[kept])):
            row = PAIR * request + place
            pair.tokens[row] = min(max(token, 0), last_token)
            pair.positions[row] = position + place
            pair.slots[row] = _slot(lines, request, position + place)
        pair.counts[request], pair.seen[request] = PAIR, position + 1
        read.positions[request], read.seen[request] = position + 1, position + 2
        read.counts[request], drafts.rooms[request] = 1, room


def _slot(lines: Lines, request: int, position: int) -> int:
    block = int(lines.table[request, position // lines.block_tokens])
    return block * lines.block_tokens + position % lines.block_tokens
