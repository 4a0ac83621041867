"""What a draft that runs on the device alone needs between its steps (Triton).

    follow ─► step of two tokens ─► choose ─► step of one ─► choose ─► …

`follow` compares what a model says with what was drafted, and lets each request go on behind what
stays: the draft reads the last two tokens, as it may have read neither. `choose` takes the
likeliest token, tells how likely it is, and makes it what the next step reads. Nobody asks the
device anything: it can all be launched before the model has said a word.

Bound: latency. The logits of a step are read once.
"""

import torch
import triton

from aweigh_kernels.dense import expect_dense, starts_early
from aweigh_kernels.draft_line import PAIR, Lines, Read
from aweigh_kernels.gpu import draft_chain

WEIGH_WARPS = 4
CHOOSE_WARPS = 4
FOLLOW_WARPS = 1


def choose(logits: torch.Tensor, lines: Lines, *, size: int) -> None:
    """Draft the likeliest token of each request; of equals the first.

    Args:
        logits: [S · E, V], fp32, contiguous, on a GPU: after each token of a step. Those after the
            last one of each request count.
        lines: S of them. `read`, whose positions are those of the tokens that were read last, gets
            the drafted ones, as `drafts` does; where there is no room for more, a request becomes
            padding.
        size: tokens that can be drafted, the first ones of V.

    Raises:
        ValueError: shapes, number formats, strides or devices are others.
    """
    num_requests, (num_rows, width) = len(lines.table), logits.shape
    expect_dense("logits", logits, [num_rows, width], [torch.float32])
    _expect(lines)
    if num_rows % num_requests or not 0 < size <= width:
        raise ValueError(
            f"logits is {[num_rows, width]} for {num_requests} requests and {size} tokens; "
            "expected equally many rows for each, and as many columns as tokens at least"
        )
    launch_choose(logits, lines, size=size, early=starts_early(logits.device))


def launch_choose(logits: torch.Tensor, lines: Lines, *, size: int, early: bool) -> None:
    """`choose` of tensors that are as they should be, which Triton's interpreter takes, too."""
    read, drafts, num_requests = lines.read, lines.drafts, len(lines.table)
    parts = triton.cdiv(size, draft_chain.CHUNK.value)
    tops, sums = logits.new_empty(2, num_requests, parts)
    likeliest = torch.empty(num_requests, parts, dtype=torch.int32, device=logits.device)
    draft_chain.weigh[(num_requests * parts,)](
        logits,
        tops,
        sums,
        likeliest,
        size,
        logits.shape[1],
        parts,
        EACH=len(logits) // num_requests,
        EARLY=early,
        num_warps=WEIGH_WARPS,
        launch_pdl=early,
    )
    draft_chain.choose[(num_requests,)](
        tops,
        sums,
        likeliest,
        parts,
        read.tokens,
        read.positions,
        read.slots,
        read.counts,
        read.seen,
        drafts.tokens,
        drafts.confidences,
        drafts.places,
        drafts.rooms,
        lines.table,
        lines.table.shape[1],
        drafts.tokens.shape[1],
        PARTS_UP=triton.next_power_of_2(parts),
        BLOCK_TOKENS=lines.block_tokens,
        EARLY=early,
        num_warps=CHOOSE_WARPS,
        launch_pdl=early,
    )


def follow(
    chosen: torch.Tensor,
    drafted: torch.Tensor,
    going: torch.Tensor,
    lines: Lines,
    *,
    last_token: int,
) -> None:
    """Let R of S requests go on behind what a model says; the others are padding.

    Args:
        chosen: [T], int64, on a GPU: what the model says at each place; negative: no token.
        drafted: [R, n], int64, rows contiguous, n at most K: what was drafted for those places;
            `lines.drafts.tokens` may be it.
        going: [5, R], int64: `Going.packed`. All positions that can follow are in `lines.table`.
        lines: S of them. `pair` gets the last token that stays, or that was there, and the one
            after it; `read` the place of the second, so that `choose` goes on behind it. `drafts`
            are begun anew.
        last_token: of the draft: larger ones are read as this.

    Raises:
        ValueError: shapes, number formats, strides or devices are others.
    """
    num_requests, num_going = len(lines.table), going.shape[1]
    expect_dense("going", going, [draft_chain.GOING.value, num_going], [torch.int64])
    expect_dense("chosen", chosen, [len(chosen)], [torch.int64])
    _expect(lines)
    longest = lines.drafts.tokens.shape[1]
    fits = num_going <= num_requests and drafted.shape[0] == num_going
    if not fits or drafted.shape[1] > longest or drafted.stride(1) != 1:
        raise ValueError(
            f"going is {list(going.shape)} and drafted {list(drafted.shape)} with strides "
            f"{list(drafted.stride())} for {num_requests} requests with room for {longest} tokens; "
            "expected at most so many, and contiguous rows of at most so many tokens"
        )
    launch_follow(chosen, drafted, going, lines, last_token=last_token)


def launch_follow(
    chosen: torch.Tensor,
    drafted: torch.Tensor,
    going: torch.Tensor,
    lines: Lines,
    *,
    last_token: int,
) -> None:
    """`follow` of tensors that are as they should be, which Triton's interpreter takes, too."""
    pair, read, drafts = lines.pair, lines.read, lines.drafts
    draft_chain.follow[(len(lines.table),)](
        chosen,
        drafted,
        drafted.stride(0),
        going,
        going.shape[1],
        last_token,
        pair.tokens,
        pair.positions,
        pair.slots,
        pair.counts,
        pair.seen,
        read.positions,
        read.slots,
        read.counts,
        read.seen,
        drafts.places,
        drafts.rooms,
        lines.table,
        lines.table.shape[1],
        LENGTH_UP=triton.next_power_of_2(drafts.tokens.shape[1]),
        BLOCK_TOKENS=lines.block_tokens,
        num_warps=FOLLOW_WARPS,
    )


def _expect(lines: Lines) -> None:
    (num_requests, width), length = lines.table.shape, lines.drafts.tokens.shape[1]
    _expect_read("pair", lines.pair, num_requests, PAIR)
    _expect_read("read", lines.read, num_requests, 1)
    drafts = lines.drafts
    expect_dense("drafts.tokens", drafts.tokens, [num_requests, length], [torch.int64])
    expect_dense("drafts.confidences", drafts.confidences, [num_requests, length], [torch.float32])
    for name in ("places", "rooms"):
        expect_dense(f"drafts.{name}", getattr(drafts, name), [num_requests], [torch.int32])
    expect_dense("table", lines.table, [num_requests, width], [torch.int32])


def _expect_read(name: str, read: Read, num_requests: int, each: int) -> None:
    for field in ("tokens", "positions", "slots"):
        tensor = getattr(read, field)
        expect_dense(f"{name}.{field}", tensor, [num_requests * each], [torch.int64])
    for field in ("counts", "seen"):
        expect_dense(f"{name}.{field}", getattr(read, field), [num_requests], [torch.int32])
