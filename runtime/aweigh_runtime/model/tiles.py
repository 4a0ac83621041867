"""How exact attention cuts a step: tiles of queries, and for each the tiles of keys it sees.

Tiles of keys lie at fixed places of a request, so what a token is computed from depends on its
position alone. Indices only: it touches no keys or values.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from aweigh_runtime.model.step_plan import Integers, Plan, on_device

KEYS = 128  # positions in a tile of keys; every block size divides it
SPAN = 16  # tiles of keys that are weighed against each other at once
_BATCH_BYTES = 1 << 24  # of keys and values that one batch copies out of the cache


@dataclass(frozen=True, slots=True)
class Span:
    """The tiles of keys at SPAN neighbouring places, each paired with the queries that see it.

    Pairs are ordered by the place of their keys, and queries by how many pairs they are in: the
    pairs of one place belong to the first so many queries.
    """

    queries: torch.Tensor  # [A], which of the batch's tiles see anything of it
    ranks: torch.Tensor  # [pairs], which of `queries` each pair is of
    pair_queries: torch.Tensor  # [pairs], which of the batch's tiles that is
    counts: tuple[int, ...]  # pairs at each place, never rising
    blocks: torch.Tensor  # [pairs · KEYS/P], of the cache
    positions: torch.Tensor  # [pairs, KEYS], of the keys


@dataclass(frozen=True, slots=True)
class Batch:
    """Tiles of queries that are computed together, all of the same number of tokens."""

    rows: torch.Tensor  # [tiles · tokens], of the packed tokens; 0 where there is no token
    positions: torch.Tensor  # [tiles, tokens]; -1 where there is no token
    filled: torch.Tensor  # [n], indices into `rows` where there is one
    spans: tuple[Span, ...]  # if there is only one, its queries are the tiles in their order


@dataclass(frozen=True, slots=True)
class _Tile:
    chunk: int
    row: int
    position: int
    num_tokens: int
    first: int  # place of the first tile of keys that it sees
    last: int


def batches(plan: Plan, window: int | None, tokens: int) -> tuple[Batch, ...]:
    """Lay out a step for layers whose tokens see `window` tokens (None: all).

    A tile of queries has `tokens` tokens, or one if there is no other in its chunk.
    """
    tiles = list(_tiles(plan, window, tokens))
    single = [tile for tile in tiles if plan.chunks[tile.chunk].num_tokens == 1]
    longer = [tile for tile in tiles if plan.chunks[tile.chunk].num_tokens > 1]
    return tuple(
        _batch(plan, group, size)
        for size, alike in ((1, single), (tokens, longer))
        for group in _groups(alike, max(_BATCH_BYTES // (KEYS * plan.token_bytes), SPAN))
    )


def _tiles(plan: Plan, window: int | None, tokens: int) -> Iterator[_Tile]:
    row = 0
    for i, chunk in enumerate(plan.chunks):
        for start in range(chunk.start, chunk.end, tokens):
            end = min(start + tokens, chunk.end)
            seen = 0 if window is None else max(start + 1 - window, 0)
            yield _Tile(i, row, start, end - start, seen // KEYS, (end - 1) // KEYS)
            row += end - start


def _groups(tiles: list[_Tile], most_pairs: int) -> Iterator[list[_Tile]]:
    """Those that see the most first; a group's pairs within one span are at most `most_pairs`."""
    group: list[_Tile] = []
    for tile in sorted(tiles, key=lambda tile: tile.first - tile.last):
        widest = group[0] if group else tile
        width = min(widest.last - widest.first + 1, SPAN)
        if (len(group) + 1) * width > most_pairs:
            yield group
            group = []
        group.append(tile)
    if group:
        yield group


def _batch(plan: Plan, tiles: list[_Tile], tokens: int) -> Batch:
    offsets = np.arange(tokens)
    filled = offsets < np.array([tile.num_tokens for tile in tiles])[:, None]
    rows = np.array([tile.row for tile in tiles])[:, None] + offsets
    positions = np.array([tile.position for tile in tiles])[:, None] + offsets
    spans = range(
        min(tile.first for tile in tiles) // SPAN, max(tile.last for tile in tiles) // SPAN + 1
    )
    return Batch(
        rows=_on_device(np.where(filled, rows, 0).ravel(), plan),
        positions=_on_device(np.where(filled, positions, -1), plan),
        filled=_on_device(np.flatnonzero(filled), plan),
        spans=tuple(_span(plan, tiles, number * SPAN) for number in spans),
    )


def _span(plan: Plan, tiles: list[_Tile], place: int) -> Span:
    first = np.maximum([tile.first for tile in tiles], place)
    last = np.minimum([tile.last for tile in tiles], place + SPAN - 1)
    widths = np.maximum(last - first + 1, 0)
    order = np.argsort(-widths, kind="stable")
    counts = [int((widths > offset).sum()) for offset in range(widths.max())]
    ranks = np.concatenate([np.arange(count) for count in counts])
    queries = order[ranks]
    places = first[queries] + np.repeat(np.arange(len(counts)), counts)
    keys = places[:, None] * KEYS + np.arange(KEYS)  # [pairs, KEYS]
    columns = keys[:, :: plan.block_tokens] // plan.block_tokens
    chunks = np.array([tile.chunk for tile in tiles])[queries]
    # Beyond a request's last block any other will do: what it holds is hidden.
    blocks = plan.table[chunks[:, None], np.minimum(columns, plan.table.shape[1] - 1)]
    return Span(
        queries=_on_device(order[: counts[0]], plan),
        ranks=_on_device(ranks, plan),
        pair_queries=_on_device(queries, plan),
        counts=tuple(counts),
        blocks=_on_device(blocks.ravel(), plan),
        positions=_on_device(keys, plan),
    )


def _on_device(values: Integers, plan: Plan) -> torch.Tensor:
    return on_device(values, plan.positions.device)
