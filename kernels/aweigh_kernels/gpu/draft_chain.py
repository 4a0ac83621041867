"""See `draft_chain`. Of one request a few numbers move: what takes time are the logits.

A row of them is read once, by as many programs as keep a GPU's multiprocessors busy: `weigh`. What
these have found is put together by one program for each request: `choose`.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

CHUNK = tl.constexpr(1024)  # tokens of one program of `weigh`
GOING = tl.constexpr(5)  # rows of what `follow` is told: see `draft_line.Going`


@triton.jit(do_not_specialize=("parts",))
def weigh(
    logits, tops, sums, likeliest, size, width, parts, EACH: tl.constexpr, EARLY: tl.constexpr
):
    """Of a chunk: the largest logit, its token, and the sum of what all weigh beside it."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    part = tl.program_id(0) % parts
    row = (tl.program_id(0) // parts).to(tl.int64) * EACH + EACH - 1
    token = part * CHUNK + tl.arange(0, CHUNK)
    logit = tl.load(logits + row * width + token, mask=token < size, other=float("-inf"))
    top = tl.max(logit, 0)
    weight = tl.where(logit == float("-inf"), 0.0, tl.exp(logit - top))
    tl.store(tops + tl.program_id(0), top)
    tl.store(sums + tl.program_id(0), tl.sum(weight, 0))
    # Where there are logits that are no numbers it may be any.
    first = tl.minimum(part * CHUNK + tl.argmax(logit, 0), size - 1)
    tl.store(likeliest + tl.program_id(0), first)


@triton.jit(do_not_specialize=("parts",))
def choose(
    tops,
    sums,
    likeliest,
    parts,
    tokens,
    positions,
    slots,
    counts,
    seen,
    drafted,
    confidences,
    places,
    rooms,
    table,
    width,
    length,
    PARTS_UP: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    EARLY: tl.constexpr,
):
    """The likeliest token of one request, which the next step reads, if there is room for it."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    request = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, PARTS_UP)
    there = part < parts
    of = request * parts + part
    top = tl.load(tops + of, mask=there, other=float("-inf"))
    weight = tl.load(sums + of, mask=there, other=0.0)
    best = tl.max(top, 0)
    total = tl.sum(tl.where(top == float("-inf"), 0.0, weight * tl.exp(top - best)), 0)
    first = tl.argmax(top, 0)  # of equals: it has the lowest tokens
    token = tl.load(likeliest + request * parts + tl.minimum(first, parts - 1))

    lives = tl.load(counts + request) > 0
    place = tl.load(places + request)
    goes_on = lives & (place + 1 < tl.load(rooms + request))
    position = tl.load(positions + request) + 1
    block = position // BLOCK_TOKENS
    slot = tl.load(table + request * width + block, mask=goes_on, other=0).to(tl.int64)
    slot = slot * BLOCK_TOKENS + position % BLOCK_TOKENS
    sees = tl.load(seen + request) + 1
    tl.store(drafted + request * length + place, token.to(tl.int64), mask=lives)
    tl.store(confidences + request * length + place, 1.0 / total, mask=lives)
    tl.store(places + request, place + 1, mask=lives)
    tl.store(tokens + request, token.to(tl.int64), mask=goes_on)
    tl.store(positions + request, position, mask=goes_on)
    tl.store(seen + request, sees, mask=goes_on)
    tl.store(slots + request, tl.where(goes_on, slot, -1))
    tl.store(counts + request, goes_on.to(tl.int32))


@triton.jit(do_not_specialize=("stride", "requests", "last_token"))
def follow(
    chosen,
    drafted,
    stride,
    going,
    requests,
    last_token,
    pair_tokens,
    pair_positions,
    pair_slots,
    pair_counts,
    pair_seen,
    positions,
    slots,
    counts,
    seen,
    places,
    rooms,
    table,
    width,
    LENGTH_UP: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    """Where one request goes on: behind the drafted tokens that stay, and the one after them."""
    request = tl.program_id(0).to(tl.int64)
    there = request < requests
    of = going + request
    first = tl.load(of, mask=there, other=0)
    verified = tl.load(of + requests, mask=there, other=0)
    end = tl.load(of + 2 * requests, mask=there, other=1)
    last = tl.load(of + 3 * requests, mask=there, other=0)
    room = tl.load(of + 4 * requests, mask=there, other=0)

    place = tl.arange(0, LENGTH_UP)
    compared = place < verified
    says = tl.load(chosen + first + place, mask=compared, other=0)
    said = tl.load(drafted + request * stride + place, mask=compared, other=0)
    kept = tl.min(tl.where(compared & (says == said), LENGTH_UP, place), 0)
    kept = tl.minimum(kept, verified)
    newest = tl.load(chosen + first + kept, mask=there, other=0)
    before = tl.load(chosen + first + kept - 1, mask=there & (kept > 0), other=0)
    before = tl.where(kept > 0, before, last)
    # What is no token ends its answer, and must be a token now; a draft may have fewer of them.
    newest = tl.minimum(tl.maximum(newest, 0), last_token)
    before = tl.minimum(tl.maximum(before, 0), last_token)

    position = end - 1 + kept  # of the token before the newest one
    lies = table + request * width
    slot = tl.load(lies + position // BLOCK_TOKENS, mask=there, other=0).to(tl.int64)
    slot = slot * BLOCK_TOKENS + position % BLOCK_TOKENS
    behind = position + 1
    next_slot = tl.load(lies + behind // BLOCK_TOKENS, mask=there, other=0).to(tl.int64)
    next_slot = next_slot * BLOCK_TOKENS + behind % BLOCK_TOKENS
    lives = there.to(tl.int32)
    tl.store(pair_tokens + 2 * request, before)
    tl.store(pair_tokens + 2 * request + 1, newest)
    tl.store(pair_positions + 2 * request, position)
    tl.store(pair_positions + 2 * request + 1, behind)
    tl.store(pair_slots + 2 * request, tl.where(there, slot, -1))
    tl.store(pair_slots + 2 * request + 1, tl.where(there, next_slot, -1))
    tl.store(pair_counts + request, 2 * lives)
    tl.store(pair_seen + request, tl.where(there, behind, 0).to(tl.int32))
    tl.store(positions + request, behind)
    tl.store(slots + request, -1)
    tl.store(counts + request, lives)
    tl.store(seen + request, tl.where(there, behind + 1, 0).to(tl.int32))
    tl.store(places + request, 0)
    tl.store(rooms + request, room.to(tl.int32))
