"""What follows a product in a layer, where its sums are: half of a tile's rows are the others'
partners, so that neither gates nor heads need rows of another program.

Eight rows come before their eight partners: those lie in the same registers of the same thread, as
tensor cores leave their sums.
"""

import triton
import triton.language as tl

from aweigh_kernels.gpu.gated import let_by
from aweigh_kernels.gpu.rope_write import keep


@triton.jit
def gate_rows(tile, OUT: tl.constexpr, ROWS: tl.constexpr):
    """Rows of some gates and of what goes through them. Past the end are the last ones again."""
    SIZE: tl.constexpr = OUT // 2
    pair, second = _pairs(ROWS)
    return tl.minimum(tile * (ROWS // 2) + pair, SIZE - 1) + second * SIZE


@triton.jit
def leave_gated(
    total,
    output,
    tile,
    num_tokens,
    OUT: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    GELU: tl.constexpr,
):
    """Write what gates let by, as `gated` computes it from the rounded product; give it back.

    `total` is [ROWS, TOKENS], of `gate_rows`. What it gives is [ROWS // 2, TOKENS], 0 where nothing
    is written.
    """
    HALF: tl.constexpr = ROWS // 2
    SIZE: tl.constexpr = OUT // 2
    gate, up = _halves(total.to(output.dtype.element_ty), ROWS, TOKENS)
    column = (tile * HALF + tl.arange(0, HALF))[:, None]
    token = tl.arange(0, TOKENS)[None, :]
    written = (column < SIZE) & (token < num_tokens)
    found = tl.where(written, let_by(gate, up, GELU), 0.0)
    tl.store(output + token.to(tl.int64) * SIZE + column, found, mask=written)
    return found


@triton.jit
def head_rows(tile, ROWS: tl.constexpr, SIZE: tl.constexpr):
    """Rows of some pairs of one head, whose halves they are."""
    TILES: tl.constexpr = SIZE // ROWS  # of a head
    pair, second = _pairs(ROWS)
    first = tile // TILES * SIZE + tile % TILES * (ROWS // 2)
    return first + pair + second * (SIZE // 2)


@triton.jit
def leave_turned(
    total,
    output,
    tile,
    num_tokens,
    cos,
    sin,
    kv,
    slots,
    key_scale,
    value_scale,
    OUT: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    SIZE: tl.constexpr,
    KV_HEADS: tl.constexpr,
    FP8: tl.constexpr,
):
    """Write heads, turned and kept as `rope_write` does it with the rounded product.

    `total` is [ROWS, TOKENS], of `head_rows`.
    """
    HALF: tl.constexpr = ROWS // 2
    TILES: tl.constexpr = SIZE // ROWS  # of a head
    HEADS: tl.constexpr = OUT // SIZE - 2 * KV_HEADS  # of queries
    kind = output.dtype.element_ty
    head = tile // TILES
    y1, y2 = _halves(total.to(kind), ROWS, TOKENS)
    token = tl.arange(0, TOKENS)
    known = (token < num_tokens)[None, :]
    pair = (tile % TILES * HALF + tl.arange(0, HALF))[:, None]
    scale = value_scale
    if head < HEADS + KV_HEADS:
        angle = token[None, :] * SIZE + pair
        c = tl.load(cos + angle, mask=known, other=0.0).to(tl.float32)
        s = tl.load(sin + angle + SIZE // 2, mask=known, other=0.0).to(tl.float32)
        x1, x2 = y1.to(tl.float32), y2.to(tl.float32)
        y1 = ((x1 * c).to(kind).to(tl.float32) - x2 * s).to(kind)
        y2 = ((x2 * c).to(kind).to(tl.float32) + x1 * s).to(kind)
        scale = key_scale
    if head >= HEADS:
        slot = tl.load(slots + token, mask=token < num_tokens, other=-1)[None, :]
        kept = kv + (slot * (2 * KV_HEADS) + head - HEADS) * SIZE + pair
        y1 = keep(kept, y1, scale, known, slot >= 0, FP8)
        y2 = keep(kept + SIZE // 2, y2, scale, known, slot >= 0, FP8)
    to = output + token.to(tl.int64)[None, :] * OUT + head * SIZE + pair
    tl.store(to, y1, mask=known)
    tl.store(to + SIZE // 2, y2, mask=known)


@triton.jit
def _pairs(ROWS: tl.constexpr):
    """Which pair each row of a tile is of, and whether it is the second of it."""
    place = tl.arange(0, ROWS)
    return place // 16 * 8 + place % 8, place // 8 % 2


@triton.jit
def _halves(total, ROWS: tl.constexpr, TOKENS: tl.constexpr):
    """The first of all pairs, and the second."""
    pairs = total.reshape(ROWS // 16, 2, 8, TOKENS).permute(0, 2, 3, 1)
    return tl.split(pairs.reshape(ROWS // 2, TOKENS, 2))
