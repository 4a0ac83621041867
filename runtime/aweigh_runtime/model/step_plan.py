"""Where the tokens of one step are written and read. Indices only: it touches no keys or values.

A plan is made once per step and used by every layer; what layers share beyond it is laid out once
per step and window.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from aweigh_runtime.model.cache import Index, KVCache
from aweigh_runtime.model.chunks import Chunk

L = TypeVar("L")  # what is laid out
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Plan:
    """A step on the cache's device."""

    chunks: Sequence[Chunk]
    block_tokens: int  # P
    token_bytes: int  # of one layer
    dtype: torch.dtype  # of masks
    table: Integers  # [S, widest], each chunk's blocks, then its last one again
    positions: torch.Tensor  # [T]
    slots: torch.Tensor  # [T], where each token is written: block · P + place in it
    logit_rows: Index  # [sum of num_logits]
    begun: torch.Tensor  # blocks that get their first tokens in this step, but not all of them
    _layouts: dict[Any, Any] = field(default_factory=dict)

    def layout(self, lay_out: Callable[["Plan", int | None], L], window: int | None) -> L:
        """What `lay_out` makes of the plan for layers whose tokens see `window` tokens, made once.

        Args:
            lay_out: a function, always the same one.
            window: tokens that a token sees, itself included; None: all.
        """
        found: L | None = self._layouts.get((lay_out, window))
        if found is None:
            found = self._layouts[lay_out, window] = lay_out(self, window)
        return found


@dataclass(frozen=True, slots=True)
class Places:
    """The same on the host, before anything is copied."""

    starts: Integers  # [S]
    counts: Integers  # [S]
    table: Integers  # [S, widest], each chunk's blocks, then its last one again
    positions: Integers  # [T]
    slots: Integers  # [T]
    begun: Integers


def lay_out(chunks: Sequence[Chunk], cache: KVCache) -> Places:
    """Where the tokens of some chunks go. O(T + blocks).

    Raises:
        IndexError: a chunk lies outside the cache, or wants more logits than it has tokens.
    """
    size = cache.block_tokens
    _check(chunks, cache)
    starts = np.array([chunk.start for chunk in chunks])
    counts = np.array([chunk.num_tokens for chunk in chunks])
    table = _table(chunks, starts + counts, size)
    outside = ((table < 0) | (table >= cache.num_blocks)).any(1)
    if outside.any():
        raise IndexError(_outside(chunks[int(outside.argmax())], cache))
    ends = np.cumsum(counts)
    owner = np.repeat(np.arange(len(chunks)), counts)  # [T], whose token it is
    positions = np.arange(ends[-1]) + (starts + counts - ends)[owner]
    return Places(
        starts=starts,
        counts=counts,
        table=table,
        positions=positions,
        slots=table[owner, positions // size] * size + positions % size,
        begun=_begun(table, starts, starts + counts, size),
    )


def plan(chunks: Sequence[Chunk], cache: KVCache) -> Plan:
    """Lay out a step. O(T + blocks) once, on the host.

    Raises:
        IndexError: a chunk lies outside the cache, or wants more logits than it has tokens.
    """
    device = cache.layers.device
    places = lay_out(chunks, cache)
    wanted = np.array([chunk.num_logits for chunk in chunks])
    last = np.cumsum(wanted)
    logit_rows = np.arange(last[-1]) + np.repeat(np.cumsum(places.counts) - last, wanted)
    return Plan(
        chunks=chunks,
        block_tokens=cache.block_tokens,
        token_bytes=cache.layers[0, 0, 0].nbytes,
        dtype=cache.dtype,
        table=places.table,
        positions=on_device(places.positions, device),
        slots=on_device(places.slots, device),
        logit_rows=index(logit_rows, device),
        begun=on_device(places.begun, device),
    )


def _check(chunks: Sequence[Chunk], cache: KVCache) -> None:
    for chunk in chunks:
        room = len(chunk.blocks) * cache.block_tokens
        if not (0 < chunk.num_tokens <= chunk.end <= room) or not (
            0 <= chunk.num_logits <= chunk.num_tokens
        ):
            raise IndexError(_outside(chunk, cache))


def _outside(chunk: Chunk, cache: KVCache) -> str:
    return (
        f"{chunk} is outside the cache of {cache.num_blocks} blocks of {cache.block_tokens} tokens"
    )


def _table(chunks: Sequence[Chunk], ends: Integers, size: int) -> Integers:
    used = -(-ends // size)
    counts = used.tolist()
    blocks = chain.from_iterable(
        chunk.blocks[:count] for chunk, count in zip(chunks, counts, strict=True)
    )
    packed = np.fromiter(blocks, np.int64, sum(counts))  # one call for all: they are many
    widest = max(counts)
    table = np.repeat(packed[np.cumsum(used) - 1, None], widest, axis=1)
    table[np.arange(widest) < used[:, None]] = packed
    return table


def _begun(table: Integers, starts: Integers, ends: Integers, size: int) -> Integers:
    last = (ends - 1) // size
    begun = (last * size >= starts) & (ends % size > 0)
    return table[np.arange(len(table)), last][begun]


def index(values: Integers, device: torch.device) -> Index:
    """Indices on the device, or a slice."""
    if len(values) and (np.diff(values) == 1).all():
        return slice(int(values[0]), int(values[0]) + len(values))
    return on_device(values, device)


def on_device(values: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """The same numbers there. A GPU takes them in its own time: nobody waits for it."""
    here = torch.from_numpy(values)
    return here.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else here
