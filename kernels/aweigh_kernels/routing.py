"""Which tokens go to which experts, decided and sorted on a GPU: the host never waits (Triton).

    shares = softmax(logits[t])                 fp32
    weights[t] = the k largest of them          each over their sum, if they are normalized

A pair is a token with one of its experts: p is choice p % k of token p // k. Pairs of an expert
stand in tiles of its own. How many tiles there are depends on what is chosen, how many there can be
on shapes alone: so many are launched, and a graph may hold them. Bound: launches; what moves is
some hundred bytes for each token.
"""

from dataclasses import dataclass

import torch
import triton

from aweigh_kernels.dense import NARROW, expect_dense, starts_early
from aweigh_kernels.gpu import routing as kernels

MOST_EXPERTS = 1024
MOST_EACH = 32  # experts of a token
_TILES = (16, 64)  # tokens of one, at least and at most
_CHUNKS = (128, 4096)  # pairs that a program looks at together, at least and at most
_BLOCK = 1024  # numbers of a program that adds


@dataclass(frozen=True, slots=True)
class Routed:
    """Who goes where."""

    weights: torch.Tensor  # [T, k], fp32, the largest first
    experts: torch.Tensor  # [tiles], int32: whose they are; -1: nobody's
    pairs: torch.Tensor  # [tiles, tokens of one], int32; behind an expert's last one T·k
    count: int  # E

    @property
    def num_pairs(self) -> int:
        """T·k."""
        return self.weights.numel()


def takes(count: int, each: int) -> bool:
    """Whether tokens can be routed so.

    Args:
        count: E.
        each: k.
    """
    return count <= MOST_EXPERTS and each <= MOST_EACH


def route(logits: torch.Tensor, each: int, *, normalized: bool) -> Routed:
    """Choose each token's experts, and sort by them.

    Args:
        logits: [T, E], bf16, fp16 or fp32, contiguous, on a GPU; T may be 0. A token whose logits
            are no numbers has weights that are none.
        each: k, experts of a token. Of equal shares the first ones are chosen.
        normalized: whether the weights of a token sum to 1.

    Raises:
        ValueError: number format, strides or device are others, or there are too many experts.
    """
    num_tokens, count = logits.shape
    expect_dense("logits", logits, [num_tokens, count], [*NARROW, torch.float32])
    if not takes(count, each) or not 1 <= each <= count:
        raise ValueError(
            f"a token has {each} of {count} experts; expected 1 to {min(count, MOST_EACH)} of at "
            f"most {MOST_EXPERTS}"
        )
    tile_tokens = tokens_of_tile(num_tokens, count, each)
    return launch(logits, each, normalized, tile_tokens, early=starts_early(logits.device))


def reference(
    logits: torch.Tensor, each: int, *, normalized: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights of each token's experts and who they are, [T, k] both, on any device."""
    weights, chosen = logits.softmax(-1, dtype=torch.float32).topk(each, -1)
    if normalized:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights, chosen


def add_weighted(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """What each token's experts found, times their weights, added in their order.

    Args:
        rows: [T·k, N], bf16 or fp16, contiguous, on a GPU; T may be 0.
        weights: [T, k], fp32.

    Returns:
        [T, N], as rows, rounded once.

    Raises:
        ValueError: shapes, number formats, strides or devices are others.
    """
    num_tokens, each = weights.shape
    expect_dense("rows", rows, [num_tokens * each, rows.shape[1]], NARROW)
    expect_dense("weights", weights, [num_tokens, each], [torch.float32])
    return launch_add(rows, weights, early=starts_early(rows.device))


def tokens_of_tile(num_tokens: int, count: int, each: int) -> int:
    """Twice what an expert gets if all are as likely: few experts need a second tile.

    Such as powers of two of T differ in, so that few kernels are compiled.

    Args:
        num_tokens: T.
        count: E.
        each: k.
    """
    least, most = _TILES
    likely = 2 * each * int(triton.next_power_of_2(num_tokens)) // count
    return min(most, max(least, _power_of_2(likely)))


def most_tiles(num_pairs: int, count: int, tile_tokens: int) -> int:
    """That so many pairs can need: as many experts as there can be have a tile with one of them."""
    begun = min(num_pairs, count)
    return begun + (num_pairs - begun) // tile_tokens


def launch(
    logits: torch.Tensor, each: int, normalized: bool, tile_tokens: int, *, early: bool
) -> Routed:
    """`route` of what is as it should be, which Triton's interpreter takes, too."""
    (num_tokens, count), device = logits.shape, logits.device
    num_pairs = num_tokens * each
    num_tiles = most_tiles(num_pairs, count, tile_tokens)
    weights = torch.empty(num_tokens, each, dtype=torch.float32, device=device)
    chosen = torch.empty(num_tokens, each, dtype=torch.int32, device=device)
    experts = torch.empty(num_tiles, dtype=torch.int32, device=device)
    pairs = torch.empty(num_tiles, tile_tokens, dtype=torch.int32, device=device)
    if num_tokens:
        count_up, (least, most) = _power_of_2(count), _CHUNKS
        chunk = min(most, max(least, _power_of_2(each * _power_of_2(num_tokens))))
        kernels.choose[(num_tokens,)](
            logits,
            weights,
            chosen,
            COUNT=count,
            COUNT_UP=count_up,
            EACH=each,
            EACH_UP=_power_of_2(each),
            NORMALIZED=normalized,
            EARLY=early,
            num_warps=1 if count_up <= 256 else 4,
            launch_pdl=early,
        )
        kernels.group[(count,)](
            chosen,
            experts,
            pairs,
            num_pairs,
            num_tiles,
            COUNT_UP=count_up,
            TOKENS=tile_tokens,
            CHUNK=chunk,
            EARLY=early,
            num_warps=4 if chunk <= 1024 else 8,
            launch_pdl=early,
        )
    return Routed(weights, experts, pairs, count)


def launch_add(rows: torch.Tensor, weights: torch.Tensor, *, early: bool) -> torch.Tensor:
    """`add_weighted` of what is as it should be, which Triton's interpreter takes, too."""
    (num_tokens, each), size = weights.shape, rows.shape[1]
    output = rows.new_empty(num_tokens, size)
    chunks = triton.cdiv(size, _BLOCK)
    if output.numel():
        kernels.add_weighted[(num_tokens * chunks,)](
            rows,
            weights,
            output,
            SIZE=size,
            CHUNKS=chunks,
            BLOCK=_BLOCK,
            EACH=each,
            EARLY=early,
            num_warps=4,
            launch_pdl=early,
        )
    return output


def _power_of_2(number: int) -> int:
    """The next one, 1 at least."""
    return int(triton.next_power_of_2(max(number, 1)))
