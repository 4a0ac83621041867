"""Requests that begin with the same blocks: a cache of what they see, and sums in fp64."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from random import Random

import numpy as np
import torch

from aweigh_kernels import common_attention_gpu
from aweigh_kernels.common_reads import CommonReads, Group, pack
from aweigh_kernels.paged_attention_gpu import Reads, attend

NAN = float("nan")
FAULT = 1 << 30  # a block that nobody may read
FP8 = torch.float8_e4m3fn
Lengths = tuple[int, Sequence[int]]  # positions in common, and what each member has behind them


class CommonCase:
    """A cache in which only what is seen has numbers; all else is NaN.

    Requests stand in any order. What a member has behind the common positions includes its new
    tokens; a request whose group has nothing in common stands alone.
    """

    def __init__(
        self,
        groups: Sequence[Lengths],
        *,
        new: int = 1,
        padding: int = 0,
        heads: tuple[int, int] = (2, 1),
        size: int = 16,
        block: int = 16,
        cap: float | None = None,
        dtype: torch.dtype = torch.float16,
        kept: torch.dtype | None = None,
        device: str = "cpu",
    ) -> None:
        requests = [
            (group, common, common + behind)
            for group, (common, own) in enumerate(groups)
            for behind in own
        ]
        Random(len(requests)).shuffle(requests)
        self.lengths = [length for _, _, length in requests]
        num_requests = len(requests)
        self.table = self._table(requests, block)
        chance = torch.Generator().manual_seed(num_requests + size)
        kv = torch.full(
            (1 + int(self.table[self.table < FAULT].max()), block, 2 * heads[1], size), NAN
        )
        drawn_for: set[int] = set()
        for blocks, (group, common, length) in zip(self.table, requests, strict=True):
            at = torch.arange(common if group in drawn_for else 0, length)
            drawn_for.add(group)
            drawn = torch.randn(len(at), 2 * heads[1], size, generator=chance)
            kv[blocks[at // block], at % block] = drawn
        self.kv = kv.to(kept or dtype).to(device)
        self.scales = (0.5, 0.25) if kept == FP8 else (1.0, 1.0)
        self.cap, self.scale = cap, size**-0.5
        self.counts = [new - index % 2 if new > 1 else 1 for index in range(num_requests)]
        self.firsts = [new * index for index in range(num_requests)]
        seen = [length - own + 1 for length, own in zip(self.lengths, self.counts, strict=True)]
        packed = torch.randn(new * (num_requests + padding), heads[0] + 3, size, generator=chance)
        self.query = packed.to(dtype).to(device)[:, : heads[0]]  # tokens lie apart
        blank = [0] * padding
        table = torch.cat([self.table, torch.full((padding, self.table.shape[1]), FAULT)])
        where = torch.device(device)
        rows = (self.firsts + blank, self.counts + blank, seen + blank)
        self.reads = replace(Reads.of(rows, table, None, where), most_tokens=new)
        self.groups = [
            Group(np.array([i for i, each in enumerate(requests) if each[0] == group]), common)
            for group, (common, _) in enumerate(groups)
            if common
        ]
        self.unit_members = common_attention_gpu.unit_members(heads, size, new)
        arrays = torch.from_numpy(pack(self.groups, num_requests + padding, self.unit_members)).to(
            where
        )
        self.common = CommonReads.over(arrays, num_requests + padding, self.unit_members)

    @staticmethod
    def _table(requests: Sequence[tuple[int, int, int]], block: int) -> torch.Tensor:
        widths = [-(-length // block) for _, _, length in requests]
        blocks = count()
        table = torch.full((len(requests), max(widths)), FAULT)
        of_groups: dict[int, list[int]] = {}
        for row, width, (group, common, _) in zip(table, widths, requests, strict=True):
            assert common % block == 0
            shared = of_groups.setdefault(group, [])
            shared += [next(blocks) for _ in range(common // block - len(shared))]
            own = [next(blocks) for _ in range(width - len(shared))]
            row[:width] = torch.tensor(shared + own)
        used = table < FAULT
        chance = torch.Generator().manual_seed(len(requests))
        table[used] = torch.randperm(next(blocks), generator=chance)[table[used]]
        return table

    def computed(self, *, together: bool = True) -> torch.Tensor:
        reads = replace(self.reads, common=self.common) if together else self.reads
        output = torch.full(self.query.shape, NAN, dtype=self.query.dtype, device=self.kv.device)
        attend(
            self.query,
            self.kv,
            reads,
            self.scale,
            output,
            soft_cap=self.cap,
            kv_scales=self.scales,
        )
        return output

    def wanted(self) -> torch.Tensor:
        """NaN where there is no token."""
        sharing = self.query.shape[1] // (self.kv.shape[2] // 2)
        kv, query = self.kv.double(), self.query.double()
        output = torch.full_like(query, NAN)
        of_requests = zip(self.table, self.firsts, self.counts, self.lengths, strict=True)
        for blocks, first, new, length in of_requests:
            held = kv[blocks[blocks < FAULT].to(kv.device)].flatten(0, 1)
            for token in range(new):
                seen = held[: length - new + token + 1].repeat_interleave(sharing, 1)
                keys, values = seen.chunk(2, 1)
                scores = torch.einsum("hd,thd->ht", query[first + token], keys * self.scales[0])
                scores *= self.scale
                if self.cap is not None:
                    scores = self.cap * torch.tanh(scores / self.cap)
                weights = scores.softmax(-1)
                found = torch.einsum("ht,thd->hd", weights, values * self.scales[1])
                output[first + token] = found
        return output.cpu()

    def error(self, *, together: bool = True) -> float:
        """Of the largest number; infinite where what should not be written is."""
        wanted, found = self.wanted(), self.computed(together=together).cpu().double()
        if not torch.equal(wanted.isnan(), found.isnan()):
            return float("inf")
        return float((found - wanted).nan_to_num().abs().max() / wanted.nan_to_num().abs().max())
