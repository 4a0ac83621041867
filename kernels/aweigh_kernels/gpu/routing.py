"""See `routing`. Nothing here depends on how many tokens an expert gets but what is written.

`choose` has a program for each token, `group` one for each expert: it counts all pairs to know
where its own begin, since a program that waited for another one's count would cost a launch.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

_AT_ONCE = tl.constexpr(64)  # tiles whose expert is written together
_SHARE = tl.constexpr(
    0x7FFFFFFF
)  # bits of a share in order: it has no sign, unless it is no number


@triton.jit
def choose(
    logits,
    weights,
    chosen,
    COUNT: tl.constexpr,
    COUNT_UP: tl.constexpr,
    EACH: tl.constexpr,
    EACH_UP: tl.constexpr,
    NORMALIZED: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One token's experts: those with the largest shares, of equal ones the first."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    token = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, COUNT_UP)
    there = place < COUNT
    wide = tl.load(logits + token * COUNT + place, mask=there, other=float("-inf")).to(tl.float32)
    power = tl.exp(wide - tl.max(wide))
    share = power / tl.sum(power)
    # Share and place in one number: all differ, and what is no number comes first.
    bits = (share.to(tl.int32, bitcast=True) & _SHARE).to(tl.int64)
    left = tl.where(there, (bits << 32) | (COUNT_UP - 1 - place), -1)
    slot = tl.arange(0, EACH_UP)
    best = tl.zeros([EACH_UP], tl.int64)
    for which in range(EACH):
        largest = tl.max(left)
        best = tl.where(slot == which, largest, best)
        left = tl.where(left == largest, -1, left)
    weight = (best >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    if NORMALIZED:
        weight /= tl.sum(tl.where(slot < EACH, weight, 0.0))
    expert = COUNT_UP - 1 - (best & _SHARE).to(tl.int32)
    to = token * EACH + slot
    tl.store(weights + to, weight, mask=slot < EACH)
    tl.store(chosen + to, expert, mask=slot < EACH)


@triton.jit(do_not_specialize=("num_pairs", "num_tiles"))
def group(
    chosen,
    experts,
    pairs,
    num_pairs,
    num_tiles,
    COUNT_UP: tl.constexpr,
    TOKENS: tl.constexpr,
    CHUNK: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One expert's pairs in their order, from a tile of its own on."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    own = tl.program_id(0)
    counts = tl.zeros([COUNT_UP], tl.int32)
    begin = 0
    while begin < num_pairs:
        pair = begin + tl.arange(0, CHUNK)
        known = pair < num_pairs
        expert = tl.load(chosen + pair, mask=known, other=0)
        counts += tl.histogram(expert, COUNT_UP, mask=known)
        begin += CHUNK
    place = tl.arange(0, COUNT_UP)
    tiles = (counts + TOKENS - 1) // TOKENS
    first = tl.sum(tl.where(place < own, tiles, 0))
    count = tl.sum(tl.where(place == own, counts, 0))
    last = first + (count + TOKENS - 1) // TOKENS
    seen = first * TOKENS
    begin = 0
    while begin < num_pairs:
        pair = begin + tl.arange(0, CHUNK)
        expert = tl.load(chosen + pair, mask=pair < num_pairs, other=-1)
        mine = (expert == own).to(tl.int32)
        tl.store(pairs + seen + tl.cumsum(mine) - 1, pair, mask=mine > 0)
        seen += tl.sum(mine)
        begin += CHUNK
    spare = seen + tl.arange(0, TOKENS)
    tl.store(pairs + spare, tl.zeros_like(spare) + num_pairs, mask=spare < last * TOKENS)
    _name(experts, first, last, own)
    if own == 0:
        _name(experts, tl.sum(tiles), num_tiles, -1)


@triton.jit
def _name(experts, first, last, expert):
    """Whose tiles they are."""
    while first < last:
        tile = first + tl.arange(0, _AT_ONCE)
        tl.store(experts + tile, tl.zeros_like(tile) + expert, mask=tile < last)
        first += _AT_ONCE


@triton.jit
def add_weighted(
    rows,
    weights,
    output,
    SIZE: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK: tl.constexpr,
    EACH: tl.constexpr,
    EARLY: tl.constexpr,
):
    """A piece of one token's sum, in the order of its choices."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    token = (tl.program_id(0) // CHUNKS).to(tl.int64)
    column = tl.program_id(0) % CHUNKS * BLOCK + tl.arange(0, BLOCK)
    inside = column < SIZE
    total = tl.zeros([BLOCK], tl.float32)
    for which in tl.static_range(EACH):
        pair = token * EACH + which
        row = tl.load(rows + pair * SIZE + column, mask=inside, other=0.0)
        total += tl.load(weights + pair) * row.to(tl.float32)
    tl.store(output + token * SIZE + column, total.to(output.dtype.element_ty), mask=inside)
