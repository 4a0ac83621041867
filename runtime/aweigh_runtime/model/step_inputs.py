"""What a recorded step reads: arrays whose place on the device stays, filled by one copy a step.

Rows that a step does not need are padding: their slot is -1, so nothing is kept of them, and their
requests have no tokens, so they see nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from aweigh_kernels.common_reads import CommonReads, pack, packed_size
from aweigh_runtime.model.cache import KVCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.common_blocks import groups_of
from aweigh_runtime.model.graph_sizes import Size
from aweigh_runtime.model.step_plan import Places, lay_out

Tokens = Sequence[int] | torch.Tensor


@dataclass(frozen=True, slots=True)
class Inputs:
    """Of steps of one size, on the device."""

    tokens: torch.Tensor  # [T], int64
    positions: torch.Tensor  # [T], int64
    slots: torch.Tensor  # [T], int64: block · P + place in it; -1: padding
    firsts: torch.Tensor  # [S], int32: the first row of each request
    counts: torch.Tensor  # [S], int32: how many rows; 0: padding
    seen: torch.Tensor  # [S], int32: positions that the first one sees
    table: torch.Tensor  # [S, W], int32: blocks of each request, then whatever was there
    common: CommonReads | None  # what requests have in common; None: not of this size

    def move_on(self) -> None:
        """On the device: each request of one token has the next one, in the same block."""
        live = self.slots >= 0
        self.positions.add_(live)
        self.slots.add_(live)
        self.seen.add_(self.counts)


class StepInputs:
    """The arrays of all sizes; those of one lie where those of another lie."""

    def __init__(
        self,
        sizes: Sequence[Size],
        max_model_len: int,
        cache: KVCache,
        unit_members: Mapping[Size, int],
    ) -> None:
        """Take memory.

        Args:
            sizes: of steps.
            max_model_len: tokens of a request.
            cache: in whose blocks they are.
            unit_members: for how many requests at once what they have in common can be read, for
                sizes of which it can.
        """
        self._unit_members = unit_members
        self._cache = cache
        self._device = cache.layers.device
        most = max(size.requests for size in sizes)
        width = -(-max_model_len // cache.block_tokens)
        num_bytes = max(self._num_bytes(size, width) for size in sizes)
        self._packed = torch.zeros(num_bytes, dtype=torch.uint8, device=self._device)
        self._table = torch.zeros(most, width, dtype=torch.int32, device=self._device)
        self._size: Size | None = None  # of the step that is in them,
        self._places: list[tuple[int, Sequence[int]]] = []  # the position and blocks of each chunk

    def of(self, size: Size) -> Inputs:
        """Where steps of a size find what they read."""
        packed = self._over(self._packed, size)
        tokens, positions, slots = packed.rows
        firsts, counts, seen = packed.requests
        table = self._table[: size.requests]
        members, common = self._unit_members.get(size), None
        if members is not None:
            common = CommonReads.over(packed.common, size.requests, members)
        return Inputs(tokens, positions, slots, firsts, counts, seen, table, common)

    def blank(self, size: Size) -> None:
        """A step of a size that is padding alone."""
        self._packed.zero_()
        self.of(size).slots.fill_(-1)

    def write(self, size: Size, tokens: Tokens, chunks: Sequence[Chunk]) -> bool:
        """Fill them for one step; the device is not waited for. O(T + blocks).

        What cached blocks hold from earlier is cleared where a step begins one.

        Args:
            size: takes the step.
            tokens: [T], the new tokens of all requests; on the device int64.
            chunks: [S], where each run of tokens is written.

        Returns:
            Whether some requests have so much in common that it is worth being read once.

        Raises:
            IndexError: a chunk lies outside the cache.
        """
        places = lay_out(chunks, self._cache)
        self._size, self._places = None, []  # should there be no memory
        here = torch.empty(
            self._num_bytes(size, places.table.shape[1]),
            dtype=torch.uint8,
            pin_memory=self._device.type == "cuda",  # it is free again when the copy has ended
        )
        packed = self._over(here, size)
        _fill(packed, tokens, places)
        any_common = self._fill_common(packed, size, places)
        self._packed[: len(here)].copy_(here, non_blocking=True)
        there = self._over(self._packed[: len(here)], size)
        num_requests, width = places.table.shape
        table = there.table.view(-1, width)[:num_requests]
        self._table[:num_requests, :width].copy_(table)
        if isinstance(tokens, torch.Tensor):
            there.rows[0, : len(tokens)].copy_(tokens)
        self._cache.clear(there.begun[: len(places.begun)])
        if size.tokens_each == 1 and not any_common:
            self._size, self._places = size, self._places_of(chunks)
        return any_common

    def _places_of(self, chunks: Sequence[Chunk]) -> list[tuple[int, Sequence[int]]]:
        size = self._cache.block_tokens
        # Slices are copies: a request's blocks change while it runs.
        return [(chunk.start, chunk.blocks[: chunk.start // size + 1]) for chunk in chunks]

    def goes_on(self, size: Size, chunks: Sequence[Chunk]) -> bool:
        """Whether a step is the last one a token further; if so, it counts as the last one.

        Nothing is written: `Inputs.move_on` must be run on the device. A token that begins a block
        is none that it can move on to, and what requests have in common is not looked for again.

        Args:
            size: takes the step; of requests of one token.
            chunks: [S], where each token is written.
        """
        if size != self._size or len(chunks) != len(self._places):
            return False
        for chunk, (position, blocks) in zip(chunks, self._places, strict=True):
            if (
                chunk.start != position + 1
                or chunk.start % self._cache.block_tokens == 0
                or chunk.blocks[: len(blocks)] != blocks
            ):
                return False
        self._places = [(position + 1, blocks) for position, blocks in self._places]
        return True

    def _fill_common(self, packed: "_Packed", size: Size, places: Places) -> bool:
        members = self._unit_members.get(size)
        if members is None:
            return False
        groups = groups_of(places.table, places.starts, self._cache.block_tokens)
        packed.common.numpy()[:] = pack(groups, size.requests, members)
        return bool(groups)

    def _over(self, memory: torch.Tensor, size: Size) -> "_Packed":
        return _Packed.over(memory, size, self._common_numbers(size))

    def _num_bytes(self, size: Size, width: int) -> int:
        each = 8 + 12 + 4 * width
        return 24 * size.rows + each * size.requests + 4 * self._common_numbers(size)

    def _common_numbers(self, size: Size) -> int:
        members = self._unit_members.get(size)
        return 0 if members is None else packed_size(size.requests, members)


@dataclass(frozen=True, slots=True)
class _Packed:
    """Bytes, and what they mean for steps of one size."""

    rows: torch.Tensor  # [3, T], int64: tokens, positions, slots
    begun: torch.Tensor  # [S], int64: blocks to clear
    requests: torch.Tensor  # [3, S], int32: firsts, counts, seen
    common: torch.Tensor  # int32: for `CommonReads.over`
    table: torch.Tensor  # [S · W], int32

    @classmethod
    def over(cls, memory: torch.Tensor, size: Size, common_numbers: int) -> "_Packed":
        before = [24 * size.rows, 8 * size.requests, 12 * size.requests, 4 * common_numbers]
        left = len(memory) - sum(before)
        table_bytes = left - left % (4 * size.requests)
        ends = np.cumsum([*before, table_bytes]).tolist()
        return cls(
            rows=memory[: ends[0]].view(torch.int64).view(3, -1),
            begun=memory[ends[0] : ends[1]].view(torch.int64),
            requests=memory[ends[1] : ends[2]].view(torch.int32).view(3, -1),
            common=memory[ends[2] : ends[3]].view(torch.int32),
            table=memory[ends[3] : ends[4]].view(torch.int32),
        )


def _fill(packed: _Packed, tokens: Tokens, places: Places) -> None:
    rows, requests = packed.rows.numpy(), packed.requests.numpy()
    num_rows, num_requests = len(places.positions), len(places.counts)
    rows[:2] = 0  # any token will do where there is none
    rows[2] = -1
    if not isinstance(tokens, torch.Tensor):
        rows[0, :num_rows] = tokens
    rows[1, :num_rows] = places.positions
    rows[2, :num_rows] = places.slots
    packed.begun.numpy()[: len(places.begun)] = places.begun
    requests[:] = 0
    requests[0, :num_requests] = np.cumsum(places.counts) - places.counts
    requests[1, :num_requests] = places.counts
    requests[2, :num_requests] = places.starts + 1
    packed.table.numpy()[: places.table.size] = places.table.ravel()
