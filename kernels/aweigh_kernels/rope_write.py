"""Rotary embedding of queries and keys in place, and keys and values into their cache (Triton).

    turned = [x1·cos - x2·sin, x2·cos + x1·sin],   x1 and x2 the halves of what is turned of a head

As torch rounds: x·cos once, the sum once. A cache of 8 bits keeps value ÷ scale. Bound: memory;
each head is read once, queries and keys are written once, keys and values once more.
"""

import torch
import triton

from aweigh_kernels.dense import NARROW, expect_dense, starts_early
from aweigh_kernels.gpu.rope_write import turn_and_keep

FP8 = torch.float8_e4m3fn
_MOST_HEADS = 16  # of a program: more of them for few tokens, and most of queries alone
_NUMBERS_A_WARP = 512
_LARGEST = torch.finfo(FP8).max


def rope_write(
    heads: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    kv: torch.Tensor,
    slots: torch.Tensor,
    *,
    kv_scales: tuple[float, float] = (1.0, 1.0),
) -> None:
    """Turn queries and keys, and keep keys and values.

    Args:
        heads: [T, H+2K, D], queries, keys, values; bf16 or fp16, contiguous like all of them; T may
            be 0. Queries and keys become turned. With a cache of 8 bits keys and values become
            what will be read from it, so that a token sees of itself what others see of it.
        cos: [T, size] or [T, 1, size], as heads; both halves are the same. The first `size` numbers
            of a head are turned, those behind them stay.
        sin: the same; the halves carry the signs of the formula: the first is less the second.
        kv: [B, P, 2K, D], keys first; as heads, or fp8 (e4m3, from sm_89 on).
        slots: [T], int64, block · P + place in it; there is each, and none twice. Negative: the
            token is padding, and is kept nowhere.
        kv_scales: of keys and values, by which what fp8 keeps is multiplied when it is read;
            numbers of heads' format.

    Raises:
        ValueError: shapes, number formats, strides or devices are others.
    """
    num_tokens, num_heads, head_size = heads.shape
    num_blocks, block_tokens, kv_rows, _ = kv.shape
    size = cos.shape[-1]
    expect_dense("heads", heads, [num_tokens, num_heads, head_size], NARROW)
    expect_dense(
        "kv", kv, [num_blocks, block_tokens, kv_rows // 2 * 2, head_size], [heads.dtype, FP8]
    )
    for name, tensor in (("cos", cos), ("sin", sin)):
        expect_dense(name, tensor.view(-1, size), [num_tokens, size], [heads.dtype])
    expect_dense("slots", slots, [num_tokens], [torch.int64])
    if not kv_rows < num_heads or size % 2 or not 0 < size <= head_size:
        raise ValueError(
            f"heads is {list(heads.shape)} for kv {list(kv.shape)} and cos {list(cos.shape)}; "
            "expected [T, H+2K, D], [B, P, 2K, D] and [T, size], size even and at most D"
        )
    if num_tokens:
        _launch(heads, cos, sin, kv, slots, kv_scales)


def reference(
    heads: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    kv: torch.Tensor,
    slots: torch.Tensor,
    *,
    kv_scales: tuple[float, float] = (1.0, 1.0),
) -> None:
    """The same by torch, on any device."""
    kv_rows, size = kv.shape[2], cos.shape[-1]
    turned = heads[:, : heads.shape[1] - kv_rows // 2, :size]
    swapped = turned.roll(size // 2, -1)
    turned.mul_(cos.view(-1, 1, size)).addcmul_(swapped, sin.view(-1, 1, size))
    new = heads[:, heads.shape[1] - kv_rows :]
    rows, there = kv.flatten(0, 1), slots >= 0
    if kv.dtype != FP8:
        rows.index_copy_(0, slots[there], new[there])
        return
    scale = torch.tensor(kv_scales, dtype=heads.dtype, device=heads.device)
    scale = scale.repeat_interleave(kv_rows // 2)[:, None]
    rounded = (new / scale).clamp(-_LARGEST, _LARGEST).to(FP8)
    rows.view(torch.uint8).index_copy_(0, slots[there], rounded.view(torch.uint8)[there])
    new.copy_(rounded.to(heads.dtype) * scale)


def _launch(
    heads: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    kv: torch.Tensor,
    slots: torch.Tensor,
    kv_scales: tuple[float, float],
) -> None:
    num_tokens, num_heads, head_size = heads.shape
    kv_heads, size = kv.shape[2] // 2, cos.shape[-1]
    rest = head_size - size
    tile = min(_MOST_HEADS, triton.next_power_of_2(num_heads))
    size_up = triton.next_power_of_2(size)
    early = starts_early(heads.device)
    turn_and_keep[(num_tokens, triton.cdiv(num_heads, tile))](
        heads,
        cos,
        sin,
        kv,
        slots,
        *kv_scales,
        HEADS=num_heads - 2 * kv_heads,
        KV_HEADS=kv_heads,
        SIZE=head_size,
        HALF=size // 2,
        HALF_UP=size_up // 2,
        REST=rest,
        REST_UP=triton.next_power_of_2(max(rest, 1)),
        TILE=tile,
        FP8=kv.dtype == FP8,
        EARLY=early,
        num_warps=min(8, max(1, tile * size_up // _NUMBERS_A_WARP)),
        launch_pdl=early,
    )
