"""Which keys and values attention reads in a step. Indices and masks only.

Requests with one new token, or few of them, are decodes: a kernel reads for one after the other,
torch for groups of equally many tokens and of similar length. Longer chunks are prompts: a kernel
reads for tiles of them, torch for each by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from aweigh_api.speculation import MAX_DRAFT_TOKENS
from aweigh_kernels import paged_attention
from aweigh_runtime.model.cache import Index
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.step_plan import Integers, Plan, index, on_device

if TYPE_CHECKING:
    from aweigh_kernels import paged_attention_gpu, prefill_attention_gpu

# New tokens of a request that is read together with others: one, and a draft behind it.
FEW = MAX_DRAFT_TOKENS + 1

# Padding that costs as much as one more group: a few launches, times the memory's speed.
_PADDING_BYTES = {"cpu": 1 << 18, "cuda": 1 << 26}
# What one group copies out of the cache at most: beyond it the copy leaves the CPU's caches.
_GROUP_BYTES = {"cpu": 1 << 22, "cuda": 1 << 28}


@dataclass(frozen=True, slots=True)
class Decodes:
    """Requests with equally few new tokens and a similar number of earlier ones."""

    rows: Index  # of the packed tokens: S · num_tokens
    num_tokens: int  # new ones, of each request
    blocks: Index  # slice: of one request; else [S, n], of the cache
    mask: torch.Tensor  # [S, 1, num_tokens, n·P], added to the scores


@dataclass(frozen=True, slots=True)
class Prompt:
    """A chunk of several tokens of one request."""

    rows: slice
    blocks: Index | None  # of the cache; None: the chunk sees itself alone
    seen: int  # tokens, from the first of `blocks` to the chunk's last
    mask: torch.Tensor | None  # [tokens, seen], added to the scores; None: causal


def prompts(plan: Plan, window: int | None) -> list[Prompt]:
    """The longer chunks, for layers whose tokens see `window` tokens (None: all)."""
    rows = _first_rows(plan)
    return [
        _prompt(plan, int(rows[i]), i, window)
        for i, chunk in enumerate(plan.chunks)
        if not _is_decode(chunk)
    ]


@cache
def tiled(tokens: int) -> "Callable[[Plan, int | None], prefill_attention_gpu.Tiles]":
    """The same, for the GPU's kernel that takes so many tokens of a chunk at a time."""
    from aweigh_kernels import prefill_attention_gpu  # Triton is not everywhere

    def lay_out(plan: Plan, window: int | None) -> prefill_attention_gpu.Tiles:
        rows = _first_rows(plan)
        long = [i for i, chunk in enumerate(plan.chunks) if not _is_decode(chunk)]
        counts = [plan.chunks[i].num_tokens for i in long]
        starts = [plan.chunks[i].start for i in long]
        placed = rows[long].tolist(), counts, starts
        device = plan.positions.device
        return prefill_attention_gpu.Tiles.of(placed, plan.table[long], tokens, window, device)

    return lay_out


def decodes(plan: Plan, window: int | None) -> list[Decodes]:
    """All others, in groups that are alike."""
    rows = _first_rows(plan)
    alike: dict[int, list[int]] = {}  # by how many new tokens
    for i, chunk in enumerate(plan.chunks):
        if _is_decode(chunk):
            alike.setdefault(chunk.num_tokens, []).append(i)
    return [
        _decodes(plan, rows, group, window)
        for each in alike.values()
        for group in _groups(plan, each)
    ]


def paged(plan: Plan, window: int | None) -> paged_attention.Reads:
    """All others, for the kernel that reads blocks where they lie."""
    rows = _first_rows(plan)
    few = [i for i, chunk in enumerate(plan.chunks) if _is_decode(chunk)]
    return paged_attention.Reads(
        tokens=rows[few],
        counts=np.array([plan.chunks[i].num_tokens for i in few], np.int64),
        seen=np.array([plan.chunks[i].start + 1 for i in few], np.int64),
        table=plan.table[few],
        window=window,
    )


def paged_on_gpu(plan: Plan, window: int | None) -> "paged_attention_gpu.Reads":
    """The same, for a GPU's."""
    from aweigh_kernels import paged_attention_gpu  # Triton is not everywhere

    reads = paged(plan, window)
    rows = (reads.tokens.tolist(), reads.counts.tolist(), reads.seen.tolist())
    table = torch.from_numpy(reads.table)
    return paged_attention_gpu.Reads.of(rows, table, window, plan.positions.device)


def _is_decode(chunk: Chunk) -> bool:
    return chunk.num_tokens == 1 or (chunk.start > 0 and chunk.num_tokens <= FEW)


def _first_rows(plan: Plan) -> Integers:
    return np.cumsum([0] + [chunk.num_tokens for chunk in plan.chunks])


def _groups(plan: Plan, alike: list[int]) -> list[list[int]]:
    """Longest first; a group is full once its padding costs as much as another group."""
    device = plan.positions.device.type
    most_padding = _PADDING_BYTES[device] // plan.token_bytes
    most = _GROUP_BYTES[device] // plan.token_bytes
    groups: list[list[int]] = []
    padding = longest = 0
    for i in sorted(alike, key=lambda i: -plan.chunks[i].end):
        length = plan.chunks[i].end
        padding += longest - length
        if not groups or padding > most_padding or (len(groups[-1]) + 1) * longest > most:
            groups.append([])
            padding, longest = 0, length
        groups[-1].append(i)
    return [sorted(group) for group in groups]


def _decodes(plan: Plan, rows: Integers, group: list[int], window: int | None) -> Decodes:
    size, device = plan.block_tokens, plan.positions.device
    num_tokens = plan.chunks[group[0]].num_tokens
    offsets = np.arange(num_tokens)
    ends = np.array([plan.chunks[i].start for i in group])[:, None] + offsets + 1  # [S, num_tokens]
    starts = np.zeros_like(ends) if window is None else np.maximum(ends - window, 0)
    first = starts[:, 0] // size  # blocks before it are out of sight
    width = int((-(-ends[:, -1] // size) - first).max())
    columns = first[:, None] + np.arange(width)
    blocks = plan.table[np.array(group)[:, None], np.minimum(columns, plan.table.shape[1] - 1)]
    before = first[:, None] * size
    low, high = (starts - before).ravel(), (ends - before).ravel()
    mask = _mask(low, high, width * size, plan)
    return Decodes(
        rows=index((rows[group][:, None] + offsets).ravel(), device),
        num_tokens=num_tokens,
        blocks=index(blocks[0], device) if len(group) == 1 else on_device(blocks, device),
        mask=mask.view(len(group), 1, num_tokens, -1),
    )


def _prompt(plan: Plan, row: int, i: int, window: int | None) -> Prompt:
    chunk, size, device = plan.chunks[i], plan.block_tokens, plan.positions.device
    rows = slice(row, row + chunk.num_tokens)
    if chunk.start == 0 and (window is None or chunk.end <= window):
        return Prompt(rows, None, chunk.num_tokens, None)
    ends = np.arange(chunk.start, chunk.end) + 1
    starts = np.zeros_like(ends) if window is None else np.maximum(ends - window, 0)
    first = int(starts[0]) // size
    seen = chunk.end - first * size
    blocks = plan.table[i, first : -(-chunk.end // size)]
    mask = _mask(starts - first * size, ends - first * size, seen, plan)
    return Prompt(rows, index(blocks, device), seen, mask)


def _mask(low: Integers, high: Integers, width: int, plan: Plan) -> torch.Tensor:
    """[rows, width]: 0 from low[i] up to high[i], minus infinity elsewhere."""
    device = plan.positions.device
    columns = torch.arange(width, device=device)
    hidden = columns >= on_device(high, device)[:, None]
    if low.any():
        hidden |= columns < on_device(low, device)[:, None]
    return torch.zeros(hidden.shape, dtype=plan.dtype, device=device).masked_fill_(
        hidden, float("-inf")
    )
