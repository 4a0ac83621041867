"""Attention that gives a token the same bits however the step around it is made up.

Each tile of queries meets one tile of keys at a time, in products of two fixed shapes; what the
tiles contribute is added in the order of their places. A tile of which a token sees nothing adds
zeros, so it does not matter with whom a token shares its tile of queries. All of it is in fp32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise

import torch
from torch.nn.functional import pad

from aweigh_runtime.model.agreement import agreeing, random
from aweigh_runtime.model.attention import AttentionShape
from aweigh_runtime.model.cache import LayerCache
from aweigh_runtime.model.step_plan import Plan
from aweigh_runtime.model.tiles import KEYS, Batch, Span, batches

_QUERIES = 32  # tokens in a tile of queries
_FEWEST_ROWS = (16, 8, 4)  # of a product for one token
_SUM_COLUMNS = 8  # of ones: a product with one column would take another algorithm
_PAIRS = 64  # in one product on a GPU, whose library picks its algorithm by their number as well
_LOWEST = -1e30  # finite: minus infinity less itself is not a number


@dataclass(frozen=True, slots=True)
class _Shapes:
    """Of products that give a row the same bits."""

    lay_out: Callable[[Plan, int | None], tuple[Batch, ...]]
    fewest_rows: int  # of a tile of queries: what one token lacks is filled up


@dataclass(frozen=True, slots=True)
class _Part:
    """Of rows of queries: what some tiles of keys contribute, in units of e^top."""

    top: torch.Tensor  # [K, tiles, rows, 1], the largest score
    total: torch.Tensor  # [K, tiles, rows, 1], sum of weights
    values: torch.Tensor  # [K, tiles, rows, D], sum of weighted values


class ExactAttention:
    """For one decoder on one device. It tries the products' shapes when it first meets them."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[int, int, int], _Shapes] = {}

    def __call__(
        self, heads: torch.Tensor, kv: LayerCache, plan: Plan, shape: AttentionShape
    ) -> torch.Tensor:
        """Store and attend as `attention.attend` does."""
        query, new = heads[:, : shape.num_heads], heads[:, shape.num_heads :]
        kv.store(new, plan.slots)
        output = torch.empty_like(query)  # [T, H, D]
        chosen = self._chosen(shape.num_heads // kv.num_kv_heads, new.shape[2], new.device)
        for batch in plan.layout(chosen.lay_out, shape.window):
            found = _attend(query, kv, batch, shape, chosen.fewest_rows)
            rows = batch.rows.index_select(0, batch.filled)
            output.index_copy_(0, rows, found.index_select(0, batch.filled).to(output.dtype))
        return output.flatten(1)

    def _chosen(self, group: int, head_dim: int, device: torch.device) -> "_Shapes":
        key = (group, head_dim, torch.get_num_threads())
        if key not in self._shapes:
            self._shapes[key] = _shapes(group, head_dim, device)
        return self._shapes[key]


def _attend(
    query: torch.Tensor, kv: LayerCache, batch: Batch, shape: AttentionShape, fewest_rows: int
) -> torch.Tensor:
    """[T, H, D] to [tiles · tokens, H, D], fp32."""
    _, num_heads, head_dim = query.shape
    tiles, tokens = batch.positions.shape
    num_kv_heads = kv.num_kv_heads
    group = num_heads // num_kv_heads
    missing = max(fewest_rows - tokens * group, 0)
    positions = pad(batch.positions.repeat_interleave(group, 1), (0, missing), value=-1)
    scaled = query.index_select(0, batch.rows).float() * shape.scale
    scaled = scaled.view(tiles, tokens, num_kv_heads, group, head_dim)
    rows = scaled.permute(2, 0, 1, 3, 4).reshape(num_kv_heads, tiles, -1, head_dim)
    rows = pad(rows, (0, 0, 0, missing))  # [K, tiles, rows, D]
    if len(batch.spans) == 1:
        so_far = _weigh(rows, positions, kv, batch.spans[0], shape)
    else:
        so_far = _nothing(rows)
        for span in batch.spans:
            _add(so_far, span.queries, _weigh(rows, positions, kv, span, shape))
    found = (so_far.values / so_far.total)[:, :, : tokens * group]
    found = found.view(num_kv_heads, tiles, tokens, group, head_dim)
    return found.permute(1, 2, 0, 3, 4).reshape(tiles * tokens, num_heads, head_dim)


def _weigh(
    rows: torch.Tensor, positions: torch.Tensor, kv: LayerCache, span: Span, shape: AttentionShape
) -> _Part:
    """What a span contributes to the queries that see any of it."""
    num_kv_heads = kv.num_kv_heads
    seen = kv.read(span.blocks)
    seen = seen.view(-1, KEYS, *seen.shape[2:]).float()
    seen = seen.permute(2, 0, 1, 3)  # [2K, pairs, KEYS, D]
    paired = rows.index_select(1, span.pair_queries)  # [K, pairs, rows, D]
    scores = paired.new_empty(*paired.shape[:3], KEYS)
    for head in range(num_kv_heads):
        scores[head] = _products(paired[head], seen[head].transpose(1, 2))
    if shape.soft_cap is not None:
        scores.div_(shape.soft_cap).tanh_().mul_(shape.soft_cap)
    scores.masked_fill_(_hidden(positions, span, shape.window), float("-inf"))
    top = scores.amax(-1, keepdim=True).clamp_(min=_LOWEST)
    weights = scores.sub_(top).exp_()
    values, total = torch.empty_like(paired), torch.empty_like(top)
    for head in range(num_kv_heads):
        values[head] = _products(weights[head], seen[num_kv_heads + head])
        total[head] = _sums(weights[head])
    return _in_order(_Part(top, total, values), span)


def _products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """[pairs, rows, n] times [pairs, n, m]: on a GPU always so many pairs, laid out alike."""
    if left.device.type == "cpu":
        return torch.bmm(left, right)
    parts = []
    for first in range(0, len(left), _PAIRS):
        count = min(len(left) - first, _PAIRS)
        ours, theirs = (_filled_up(each[first : first + count]) for each in (left, right))
        parts.append(torch.bmm(ours, theirs)[:count])
    return torch.cat(parts)


def _filled_up(pairs: torch.Tensor) -> torch.Tensor:
    filled = pairs.new_zeros(_PAIRS, *pairs.shape[1:])
    filled[: len(pairs)] = pairs
    return filled


def _sums(weights: torch.Tensor) -> torch.Tensor:
    """[pairs, rows, KEYS] to [pairs, rows, 1]. A GPU's own sum depends on how many there are."""
    if weights.device.type == "cpu":
        return weights.sum(-1, keepdim=True)
    ones = weights.new_ones(len(weights), weights.shape[-1], _SUM_COLUMNS)
    return _products(weights, ones)[..., :1]


def _hidden(positions: torch.Tensor, span: Span, window: int | None) -> torch.Tensor:
    """[pairs, rows, KEYS]"""
    queries = positions.index_select(0, span.pair_queries)[:, :, None]
    keys = span.positions[:, None]
    hidden = keys > queries
    return hidden if window is None else hidden | (keys <= queries - window)


def _in_order(pairs: _Part, span: Span) -> _Part:
    """Add up the pairs of each query, place by place."""
    bounds = [0, *accumulate(span.counts)]
    places = [slice(*pair) for pair in pairwise(bounds)]
    parts = list(zip(places, span.counts, strict=True))
    top = pairs.top[:, places[0]].clone()
    for place, count in parts[1:]:
        torch.maximum(top[:, :count], pairs.top[:, place], out=top[:, :count])
    scale = (pairs.top - top.index_select(1, span.ranks)).exp_()
    pairs.total.mul_(scale)
    pairs.values.mul_(scale)
    total, values = pairs.total[:, places[0]], pairs.values[:, places[0]]
    for place, count in parts[1:]:
        total[:, :count] += pairs.total[:, place]
        values[:, :count] += pairs.values[:, place]
    return _Part(top, total, values)


def _add(so_far: _Part, queries: torch.Tensor, part: _Part) -> None:
    """Join what a later span contributes to some queries."""
    before = so_far.top.index_select(1, queries)
    top = torch.maximum(before, part.top)
    old, new = before.sub_(top).exp_(), part.top.sub_(top).exp_()
    so_far.top[:, queries] = top
    so_far.total[:, queries] = so_far.total[:, queries] * old + part.total * new
    so_far.values[:, queries] = so_far.values[:, queries] * old + part.values * new


def _nothing(rows: torch.Tensor) -> _Part:
    top = rows.new_full((*rows.shape[:3], 1), _LOWEST)
    return _Part(top, torch.zeros_like(top), torch.zeros_like(rows))


def _shapes(group: int, head_dim: int, device: torch.device) -> _Shapes:
    like = torch.empty(0, device=device)
    sizes = (_QUERIES * group, *(size for size in _FEWEST_ROWS if size < _QUERIES * group))
    cached = random((3, KEYS, 4, head_dim), like).permute(2, 0, 1, 3)  # laid out as in the cache
    agreed = set(sizes)
    for other in (cached[0].transpose(1, 2), cached[1]):
        x = random((sizes[0], other.shape[1]), like)
        agreed &= set(agreeing([partial(_alone, other), partial(_among, other)], x, sizes))
    fitting = [size for size in agreed if size >= group]
    tokens = _QUERIES if sizes[0] in agreed else 1
    return _Shapes(partial(batches, tokens=tokens), min(fitting, default=group))


def _alone(other: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return _products(rows[None], other[:1])[0]


def _among(other: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return _products(rows.repeat(len(other), 1, 1), other)[0]
