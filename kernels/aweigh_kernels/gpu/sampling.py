"""See `sampling_gpu`.

A row is read once for the largest logit of each group of 128 tokens, in `summarize`. Groups whose
largest are the k largest hold k tokens that are as near, or more, so `decide` reads only those
again and lists what is near enough. Tokens are ordered by keys, 31 bits of the gap to the largest
logit and 19 of the id: what top_k and top_p keep is all up to some key.

Among keys up to a bound, the winner of the race is the answer if top_p keeps it. If it does not, it
keeps nothing beyond either, and the winner before it is looked for: so no order has to be made.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

CHUNK = tl.constexpr(4096)  # tokens of one program
TILE = tl.constexpr(512)  # tokens that its threads read at once
RUN = tl.constexpr(16)  # neighbours; a group has one run of each tile of a chunk
GROUP = tl.constexpr(128)
GROUPS = tl.constexpr(32)  # of a chunk
ID_BITS = tl.constexpr(19)
LAST_TOKEN = tl.constexpr((1 << 19) - 1)
CAPACITY = tl.constexpr(4096)  # of the list of a row
SETTINGS = tl.constexpr(6)  # of a row: see `sampling_gpu.Choice`
RACED = tl.constexpr(-1)  # top_k of rows of which every token runs

_FAR = tl.constexpr((1 << 51) - 1)  # behind every key
_LAST_ID = tl.constexpr((1 << 32) - 1)
_LISTED_TILE = tl.constexpr(256)
_ROW_TILE = tl.constexpr(2048)
_LIST_TILE = tl.constexpr(4096)
_FEW_GROUPS = tl.constexpr(64)  # so many cost no more than fewer
_SOME_GROUPS = tl.constexpr(128)  # that are read where top_p alone bounds a row
_MOST_GROUPS = tl.constexpr(512)  # that are read if those are too light together
_REACH = tl.constexpr(50.0)  # e^-50 wins no race: noise is 2^-64 at least and 17 at most
_GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)  # of splitmix64, like the factors in `_mixed`
_POSITIVE = tl.constexpr((1 << 63) - 1)


@triton.jit(do_not_specialize=("chunks",))
def summarize(logits, maxima, size, chunks, EARLY: tl.constexpr):
    """The largest logit of each group of a chunk; one that is not a number is the largest."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    row = (tl.program_id(0) // chunks).to(tl.int64)
    chunk = tl.program_id(0) % chunks
    largest = tl.full([TILE], float("-inf"), tl.float32)
    for tile in tl.static_range(CHUNK // TILE):
        token = chunk * CHUNK + tile * TILE + tl.arange(0, TILE)
        logit = tl.load(logits + row * size + token, mask=token < size, other=float("-inf"))
        largest = _larger(largest, logit)
    found = tl.reduce(largest.reshape(GROUPS, RUN), 1, _larger)
    tl.store(maxima + tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS), found)


@triton.jit(do_not_specialize=("chunks",))
def spread(
    logits,
    settings,
    maxima,
    sums,
    size,
    chunks,
    GROUPS_UP: tl.constexpr,
    EARLY: tl.constexpr,
):
    """What takes all tokens of a chunk: the winner of their race, or the sum of their shares."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    row = (tl.program_id(0) // chunks).to(tl.int64)
    chunk = tl.program_id(0) % chunks
    to = sums + tl.program_id(0).to(tl.int64)  # not by row and chunk: on sm_90 those would spill
    setting = settings + row * SETTINGS
    top_k = tl.load(setting + 5)
    raced = top_k == RACED
    if raced | ((top_k == 0) & (_real(setting + 3) < 1.0)):
        token = chunk * CHUNK + tl.arange(0, CHUNK)
        inside = token < size
        logit = tl.load(logits + row * size + token, mask=inside, other=float("-inf"))
        best = _largest(maxima, row, chunks, GROUPS_UP)  # while the logits come
        temperature = _real(setting + 2).to(tl.float32)
        weight = _weight(tl.abs(best - logit), temperature)
        if raced:
            runs = inside & (weight >= _real(setting + 4).to(tl.float32))
            ran = _raced(weight, token, tl.load(setting), tl.load(setting + 1))
            tl.store(to, tl.max(tl.where(runs, ran, -1), 0))
        else:
            tl.store(to, tl.sum(_share(tl.where(inside, weight, 0.0)), 0))
    else:
        tl.store(to, tl.full([], 0, tl.int64))


@triton.jit(do_not_specialize=("chunks",))
def decide(
    logits,
    settings,
    maxima,
    sums,
    order,
    listed,
    tokens,
    largest,
    size,
    chunks,
    GROUPS_UP: tl.constexpr,
    SUMMED: tl.constexpr,
    EARLY: tl.constexpr,
):
    """The token of one row; `sums` are those of `spread`, if that has run."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    best = _largest(maxima, row, chunks, GROUPS_UP)
    token = tl.full([], -1, tl.int64)
    if (best < float("inf")) & (best > float("-inf")):
        chunk = tl.arange(0, GROUPS_UP // GROUPS)
        summed = tl.full([GROUPS_UP // GROUPS], 0, tl.int64)
        if SUMMED:
            summed = tl.load(sums + row * chunks + chunk, mask=chunk < chunks, other=-1)
        setting = settings + row * SETTINGS
        if tl.load(setting + 5) == RACED:
            token = _id(tl.max(summed, 0))
        else:
            total = tl.sum(tl.where(chunk < chunks, summed, 0), 0)
            token = _filtered(
                logits + row * size,
                setting,
                maxima + row * (chunks * GROUPS),
                order + row * GROUPS_UP,
                listed + row * CAPACITY,
                best,
                total,
                size,
                chunks,
                GROUPS_UP,
            )
    tl.store(tokens + row, token)
    tl.store(largest + row, best)


@triton.jit
def _filtered(
    logits,
    setting,
    maxima,
    order,
    listed,
    best,
    total,
    size,
    chunks,
    GROUPS_UP: tl.constexpr,
):
    """Of what is near enough, if that is all that counts and there is room for it; else of all."""
    temperature = _real(setting + 2).to(tl.float32)
    top_p = _real(setting + 3)
    top_k = tl.load(setting + 5)
    nucleus = (top_k == 0) & (top_p < 1.0)
    group = tl.arange(0, GROUPS_UP)
    there = group < chunks * GROUPS
    logit = tl.load(maxima + group, mask=there, other=float("-inf"))
    gap = tl.abs(best - logit)
    limit = _limit(temperature, top_p, _real(setting + 4), top_k)
    need = total.to(tl.float64) * top_p
    want = tl.where(nucleus, _SOME_GROUPS, top_k)
    count = tl.full([], 0, tl.int32)
    complete = False
    listing = True
    while listing:
        listing = False
        cut = limit
        if (top_k > 1) | nucleus:
            cut = _cut(gap, limit, temperature, want, need, nucleus)
        chosen = there & (gap.to(tl.int32, bitcast=True) <= cut)
        tl.store(order + tl.cumsum(chosen.to(tl.int32), 0) - 1, group, mask=chosen)
        tl.debug_barrier()
        count = _list(logits, order, listed, best, cut, tl.sum(chosen.to(tl.int32), 0), size)
        tl.debug_barrier()
        complete = count <= CAPACITY
        if nucleus & complete & (cut < limit):
            _, mass = _measured(listed, best, count, _FAR - 1, temperature, True)
            complete = mass.to(tl.float64) >= need
            # Four times as many groups may hold enough if these have a quarter.
            listing = (want == _SOME_GROUPS) & (not complete) & (4.0 * mass.to(tl.float64) >= need)
            want = tl.full([], _MOST_GROUPS, tl.int64)
            tl.debug_barrier()
    if complete:
        token = _drawn(logits, listed, setting, best, count, total, True)
    else:
        token = _drawn(logits, logits, setting, best, size, total, False)
    return token


@triton.jit
def _limit(temperature, top_p, min_p, top_k):
    """The largest gap that can count, as bits."""
    reach = _REACH * temperature
    if (top_p >= 1.0) & (min_p > 0.0):  # what min_p leaves out does not count for top_p's sum
        reach = tl.minimum(reach, (0.001 - tl.log(min_p.to(tl.float32))) * temperature)
    if top_k == 1:
        reach = 0.0
    return reach.to(tl.int32, bitcast=True)


@triton.jit
def _cut(gap, limit, temperature, want, need, nucleus):
    """The gap, as bits, up to which groups hold enough tokens by their largest alone."""
    bits = gap.to(tl.int32, bitcast=True)
    low, high = limit * 0, limit
    while low < high:
        middle = low + (high - low) // 2
        near = bits <= middle
        number = tl.sum(near.to(tl.int32), 0)
        enough = number >= want
        if nucleus:
            mass = tl.sum(tl.where(near, _share(_weight(gap, temperature)), 0), 0)
            enough = enough | (mass.to(tl.float64) >= need)
        good = enough & (number <= _FEW_GROUPS)
        low = tl.where(enough, tl.where(good, middle, low), middle + 1)
        high = tl.where(enough, middle, high)
    return high


@triton.jit
def _list(logits, order, listed, best, cut, num_groups, size):
    """List the keys of tokens up to a gap, in chosen groups; how many there are."""
    place = tl.arange(0, _LIST_TILE)
    inside = place % GROUP
    highest = _keys(cut, LAST_TOKEN)
    count = num_groups * 0
    first = num_groups * 0
    while first < num_groups:
        slot = first + place // GROUP
        there = slot < num_groups
        group = tl.load(order + slot, mask=there, other=0)
        token = group // GROUPS * CHUNK + group % GROUPS * RUN + inside // RUN * TILE + inside % RUN
        there &= token < size
        logit = tl.load(logits + token, mask=there, other=float("-inf"))
        key = _keys(tl.abs(best - logit).to(tl.int32, bitcast=True), token)
        taken = there & (key <= highest)
        at = count + tl.cumsum(taken.to(tl.int32), 0) - 1
        tl.store(listed + at, key, mask=taken & (at < CAPACITY))
        count += tl.sum(taken.to(tl.int32), 0)
        first += _LIST_TILE // GROUP
    return count


@triton.jit
def _drawn(logits, source, setting, best, count, total, LISTED: tl.constexpr):
    """The token that wins among those that the settings keep.

    `source`: `count` keys that are listed, or the logits of the row.
    """
    temperature = _real(setting + 2).to(tl.float32)
    top_p = _real(setting + 3)
    top_k = tl.load(setting + 5)
    bound = tl.full([], _FAR - 1, tl.int64)
    if (top_k > 0) & (top_k < count):
        bound = _last(source, best, count, top_k, temperature, LISTED)
    if (top_k > 0) & (top_p < 1.0):
        _, total = _measured(source, best, count, bound, temperature, LISTED)
    mass = total.to(tl.float64) * top_p
    token = tl.full([], 0, tl.int64)
    looking = True
    while looking:
        token = _id(_winner(source, setting, best, count, bound, LISTED))
        looking = False
        if top_p < 1.0:
            gap = tl.abs(best - tl.load(logits + token))
            bound = _keys(gap.to(tl.int32, bitcast=True), token) - 1
            before, share = _measured(source, best, count, bound, temperature, LISTED)
            looking = (before > 0) & (share.to(tl.float64) >= mass)
    return token


@triton.jit
def _last(source, best, count, top_k, temperature, LISTED: tl.constexpr):
    """A key up to which there are top_k."""
    low, high = tl.full([], 0, tl.int64), tl.full([], _FAR - 1, tl.int64)
    while low < high:
        middle = low + ((high - low) >> 1)
        number, _ = _measured(source, best, count, middle, temperature, LISTED)
        low = tl.where(number < top_k, middle + 1, tl.where(number == top_k, middle, low))
        high = tl.where(number < top_k, high, middle)
    return high


@triton.jit
def _measured(source, best, count, bound, temperature, LISTED: tl.constexpr):
    """How many keys are not beyond a bound, and the sum of their shares."""
    WIDTH: tl.constexpr = _LISTED_TILE if LISTED else _ROW_TILE
    number = tl.zeros([WIDTH], tl.int32)
    mass = tl.zeros([WIDTH], tl.int64)
    first = 0
    while first < count:
        key = _read(source, best, first + tl.arange(0, WIDTH), count, LISTED)
        near = key <= bound
        number += near.to(tl.int32)
        mass += _share(tl.where(near, _weight(_gap(key), temperature), 0.0))
        first += WIDTH
    return tl.sum(number, 0), tl.sum(mass, 0)


@triton.jit
def _winner(source, setting, best, count, bound, LISTED: tl.constexpr):
    """Who wins the race of those that are neither beyond a bound nor below min_p."""
    WIDTH: tl.constexpr = _LISTED_TILE if LISTED else _ROW_TILE
    seed, position = tl.load(setting), tl.load(setting + 1)
    temperature, min_p = _real(setting + 2).to(tl.float32), _real(setting + 4).to(tl.float32)
    winner = tl.full([WIDTH], -1, tl.int64)
    first = 0
    while first < count:
        key = _read(source, best, first + tl.arange(0, WIDTH), count, LISTED)
        weight = _weight(_gap(key), temperature)
        runs = (key <= bound) & (weight >= min_p)
        ran = _raced(weight, key & LAST_TOKEN, seed, position)
        winner = tl.maximum(winner, tl.where(runs, ran, -1))
        first += WIDTH
    return tl.max(winner, 0)


@triton.jit
def _read(source, best, at, count, LISTED: tl.constexpr):
    """Keys; behind the last there is none that counts."""
    if LISTED:
        key = tl.load(source + at, mask=at < count, other=_FAR)
    else:
        logit = tl.load(source + at, mask=at < count, other=float("-inf"))
        key = _keys(tl.abs(best - logit).to(tl.int32, bitcast=True), at)
        key = tl.where(at < count, key, _FAR)
    return key


@triton.jit
def _keys(gap_bits, token):
    return (gap_bits.to(tl.int64) << ID_BITS) | token


@triton.jit
def _gap(key):
    return (key >> ID_BITS).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _weight(gap, temperature):
    return tl.exp(-(gap / temperature))


@triton.jit
def _share(weight):
    """A weight as an integer: no order of adding changes their sum."""
    return (weight * 1099511627776.0).to(tl.int64)


@triton.jit
def _raced(weight, token, seed, position):
    """How far a token comes, and behind that which it is: the lowest of equals is the largest."""
    key = _mixed(seed.to(tl.uint64) + (position + 1).to(tl.uint64) * _GOLDEN)
    bits = _mixed(key + token.to(tl.uint64) * _GOLDEN)
    uniform = (bits & _POSITIVE).to(tl.int64).to(tl.float32) * 1.0842021724855044e-19
    uniform = tl.minimum(tl.maximum(uniform, 5.421010862427522e-20), 0.99999994)
    rest = 1.0 - uniform
    noise = -(tl.log(rest) + ((1.0 - rest) - uniform))  # what 1 - uniform has lost is put back
    far = (weight / noise).to(tl.int32, bitcast=True).to(tl.int64)
    return (far << 32) | (_LAST_ID - token.to(tl.int64))


@triton.jit
def _mixed(values):
    values = (values ^ (values >> 30)) * 0xBF58476D1CE4E5B9
    values = (values ^ (values >> 27)) * 0x94D049BB133111EB
    return values ^ (values >> 31)


@triton.jit
def _id(raced):
    return _LAST_ID - (raced & _LAST_ID)


@triton.jit
def _real(at):
    return tl.load(at).to(tl.float64, bitcast=True)


@triton.jit
def _largest(maxima, row, chunks, GROUPS_UP: tl.constexpr):
    group = tl.arange(0, GROUPS_UP)
    there = group < chunks * GROUPS
    each = tl.load(maxima + row * (chunks * GROUPS) + group, mask=there, other=float("-inf"))
    return tl.reduce(each, 0, _larger)


@triton.jit
def _larger(one, other):
    return tl.maximum(one, other, propagate_nan=tl.PropagateNan.ALL)
