"""Attention over the cache for a step that mixes prompts and decodes.

A plan is made once per step and used by every layer. Requests with one new token are computed
together, padded to the longest of them; each longer chunk is computed by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from aweigh_runtime.model.cache import KVCache
from aweigh_runtime.model.chunks import Chunk

# cuDNN builds a plan for every new length: 35 ms on an H200, and every decode step has a new one.
torch.backends.cuda.enable_cudnn_sdp(False)

Index = slice | torch.Tensor  # a slice where the indices are consecutive: then nothing is copied


@dataclass(frozen=True, slots=True)
class Decodes:
    """The requests with one new token."""

    rows: Index  # of the packed tokens
    slots: Index
    longest: int  # tokens of the longest request, the new one included
    mask: torch.Tensor | None  # [S, 1, 1, longest], added to the scores


@dataclass(frozen=True, slots=True)
class Prompt:
    """A chunk of several tokens of one request."""

    rows: slice
    slot: int
    end: int
    mask: torch.Tensor | None  # [tokens, end], added to the scores; None: causal


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the tokens of a step are read and written."""

    positions: torch.Tensor  # [T]
    slots: torch.Tensor  # [T]
    last_rows: Index  # [S], of each chunk's last token
    decodes: Decodes | None
    prompts: tuple[Prompt, ...]


def plan(chunks: Sequence[Chunk], cache: KVCache) -> Plan:
    """Lay out a step. O(T) once, on the host.

    Raises:
        IndexError: a chunk lies outside the cache.
    """
    device, dtype = cache.layers.device, cache.layers.dtype
    rows: list[int] = []
    first = 0
    for chunk in chunks:
        if not (
            0 <= chunk.slot < cache.num_slots and 0 < chunk.num_tokens <= chunk.end <= cache.max_len
        ):
            raise IndexError(
                f"{chunk} is outside the cache of {cache.num_slots} slots of {cache.max_len} tokens"
            )
        rows.append(first)
        first += chunk.num_tokens
    positions = [position for chunk in chunks for position in range(chunk.start, chunk.end)]
    slots = [chunk.slot for chunk in chunks for _ in range(chunk.num_tokens)]
    last = [row + chunk.num_tokens - 1 for row, chunk in zip(rows, chunks, strict=True)]
    placed = list(zip(rows, chunks, strict=True))
    return Plan(
        positions=torch.tensor(positions, device=device),
        slots=torch.tensor(slots, device=device),
        last_rows=_index(last, device),
        decodes=_decodes([pair for pair in placed if pair[1].num_tokens == 1], dtype, device),
        prompts=tuple(
            _prompt(row, chunk, dtype, device) for row, chunk in placed if chunk.num_tokens > 1
        ),
    )


def attend(heads: torch.Tensor, kv: torch.Tensor, plan: Plan, num_heads: int) -> torch.Tensor:
    """Store the step's keys and values, and attend to everything each token may see.

    Args:
        heads: [T, H+2K, D], turned queries and keys, then values.
        kv: [slots, 2K, max_len, D], one layer of the cache.
        plan: of this step.
        num_heads: H.

    Returns:
        [T, H·D].
    """
    query = heads[:, :num_heads]  # [T, H, D]
    kv[plan.slots, :, plan.positions] = heads[:, num_heads:]
    output = torch.empty_like(query)  # [T, H, D]
    if plan.decodes is not None:
        output[plan.decodes.rows] = _attend_decodes(query, kv, plan.decodes)
    for prompt in plan.prompts:
        output[prompt.rows] = _attend_prompt(query, kv, prompt)
    return output.flatten(1)


def _attend_decodes(query: torch.Tensor, kv: torch.Tensor, decodes: Decodes) -> torch.Tensor:
    num_kv_heads = kv.shape[1] // 2
    seen = kv[:, :, : decodes.longest][decodes.slots]  # [S, 2K, longest, D]
    # The queries that share a key head become the query positions of one head: no key is repeated.
    rows = query[decodes.rows]  # [S, H, D]
    grouped = rows.view(rows.shape[0], num_kv_heads, -1, rows.shape[-1])  # [S, K, H/K, D]
    keys, values = seen[:, :num_kv_heads], seen[:, num_kv_heads:]
    return scaled_dot_product_attention(grouped, keys, values, attn_mask=decodes.mask).flatten(1, 2)


def _attend_prompt(query: torch.Tensor, kv: torch.Tensor, prompt: Prompt) -> torch.Tensor:
    num_kv_heads, head_dim = kv.shape[1] // 2, kv.shape[3]
    group = query.shape[1] // num_kv_heads
    # Key heads become the batch, and the queries that share one its heads: no key is repeated.
    grouped = query[prompt.rows].view(-1, num_kv_heads, group, head_dim).permute(1, 2, 0, 3)
    seen = kv[prompt.slot, :, None, : prompt.end].expand(-1, group, -1, -1)  # [2K, H/K, end, D]
    return (
        scaled_dot_product_attention(
            grouped,
            seen[:num_kv_heads],
            seen[num_kv_heads:],
            attn_mask=prompt.mask,
            is_causal=prompt.mask is None,
        )
        .permute(2, 0, 1, 3)
        .flatten(1, 2)
    )  # [tokens, H, D]


def _decodes(
    placed: Sequence[tuple[int, Chunk]], dtype: torch.dtype, device: torch.device
) -> Decodes | None:
    if not placed:
        return None
    ends = [chunk.end for _, chunk in placed]
    longest = max(ends)
    return Decodes(
        rows=_index([row for row, _ in placed], device),
        slots=_index([chunk.slot for _, chunk in placed], device),
        longest=longest,
        mask=None
        if min(ends) == longest
        else _hide_after(ends, longest, dtype, device)[:, None, None],
    )


def _prompt(row: int, chunk: Chunk, dtype: torch.dtype, device: torch.device) -> Prompt:
    seen = range(chunk.start + 1, chunk.end + 1)
    mask = None if chunk.start == 0 else _hide_after(seen, chunk.end, dtype, device)
    return Prompt(slice(row, row + chunk.num_tokens), chunk.slot, chunk.end, mask)


def _hide_after(
    ends: Sequence[int], longest: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """[len(ends), longest]: 0 for the first `ends[i]` positions of row i, minus infinity after."""
    positions = torch.arange(longest, device=device)
    hidden = positions >= torch.tensor(ends, device=device)[:, None]
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))


def _index(values: Sequence[int], device: torch.device) -> Index:
    first = values[0]
    if all(value == first + offset for offset, value in enumerate(values)):
        return slice(first, first + len(values))
    return torch.tensor(values, device=device)
