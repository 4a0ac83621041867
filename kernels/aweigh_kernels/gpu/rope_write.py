"""See `rope_write`. A program has heads of one token: queries, keys and values alike.

What is turned of a head comes as two halves, so that no thread needs another's numbers.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def turn_and_keep(
    heads,
    cos,
    sin,
    kv,
    slots,
    key_scale,
    value_scale,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    HALF: tl.constexpr,
    HALF_UP: tl.constexpr,
    REST: tl.constexpr,
    REST_UP: tl.constexpr,
    TILE: tl.constexpr,
    FP8: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Some heads of one token."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    ALL: tl.constexpr = HEADS + 2 * KV_HEADS
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * TILE + tl.arange(0, TILE)
    turns = (head < HEADS + KV_HEADS)[:, None]
    lies = (token * ALL + head)[:, None] * SIZE
    slot = tl.load(slots + token)
    keeps = (slot * (2 * KV_HEADS) + head - HEADS)[:, None] * SIZE
    scale = tl.where(turns, key_scale, value_scale)

    pair = tl.arange(0, HALF_UP)
    paired = (pair < HALF)[None, :]
    there = (head < ALL)[:, None] & paired
    first = tl.load(heads + lies + pair[None, :], mask=there, other=0.0)
    second = tl.load(heads + lies + HALF + pair[None, :], mask=there, other=0.0)
    angle = token * (2 * HALF) + pair
    c = tl.load(cos + angle, mask=pair < HALF, other=0.0).to(tl.float32)[None, :]
    s = tl.load(sin + angle + HALF, mask=pair < HALF, other=0.0).to(tl.float32)[None, :]
    x1, x2 = first.to(tl.float32), second.to(tl.float32)
    y1 = (x1 * c).to(first.dtype).to(tl.float32) - x2 * s
    y2 = (x2 * c).to(first.dtype).to(tl.float32) + x1 * s
    first = tl.where(turns, y1.to(first.dtype), first)
    second = tl.where(turns, y2.to(first.dtype), second)
    kept = (head >= HEADS)[:, None] & (slot >= 0)
    if tl.program_id(1) * TILE + TILE > HEADS:  # else they are queries alone
        first = keep(kv + keeps + pair[None, :], first, scale, there, kept, FP8)
        second = keep(kv + keeps + HALF + pair[None, :], second, scale, there, kept, FP8)
    changed = there if FP8 else there & turns
    tl.store(heads + lies + pair[None, :], first, mask=changed)
    tl.store(heads + lies + HALF + pair[None, :], second, mask=changed)
    if REST > 0:
        last = 2 * HALF + tl.arange(0, REST_UP)[None, :]
        behind = (head < ALL)[:, None] & kept & (last < SIZE)
        values = tl.load(heads + lies + last, mask=behind, other=0.0)
        values = keep(kv + keeps + last, values, scale, behind, kept, FP8)
        if FP8:
            tl.store(heads + lies + last, values, mask=behind)


@triton.jit
def keep(to, values, scale, there, kept, FP8: tl.constexpr):
    """Write keys and values into the cache; give back what will be read from it."""
    if FP8:
        rounded = _divided(values.to(tl.float32), scale).to(values.dtype)
        # Conversion takes what is too large as the largest.
        rounded = rounded.to(tl.float32).to(tl.float8e4nv)
        tl.store(to, rounded, mask=there & kept)
        values = tl.where(kept, (rounded.to(tl.float32) * scale).to(values.dtype), values)
    else:
        tl.store(to, values, mask=there & kept)
    return values


@triton.jit
def _divided(values, scale):
    """values ÷ scale, rounded once, without the slow division that rounds so.

    What is missing from the product with the inverse is added (Markstein 1990), unless it is
    infinite.
    """
    inverse = tl.div_rn(1.0, scale)
    near = values * inverse
    missing = tl.fma(-near, tl.broadcast_to(scale, values.shape), values)
    exact = tl.fma(missing, tl.broadcast_to(inverse, values.shape), near)
    return tl.where(tl.abs(near) < 1e30, exact, near)
