"""What is believed of demand, hits and drafts, look by look: each figure follows what is counted.

Rates follow fast, shares slowly. What a cold pod counts says nothing of hits, nor of drafts, whose
worth it has yet to measure; and after a change of the number of pods the hit share is left as it
was until caches have settled: it falls because prefixes lie elsewhere, which must not ask for one
more pod.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import log2, sqrt
from statistics import median

from aweigh_operator.scaling import counts
from aweigh_operator.scaling.counts import Counted, Window
from aweigh_operator.scaling.law import LARGEST_HIT_SHARE, Costs, Demand, Room, Worth
from aweigh_operator.scaling.look import Look

UNKNOWN_LENGTH = 256.0  # tokens of a prompt or answer until one was seen
LEAST_PROMPT_TOKENS = 5000  # of warm pods, to judge hits by: fewer are gathered over several looks
LEAST_ROWS = 500  # to judge drafts by, likewise
UNKNOWN_START_S = 60.0  # until a pod was seen to become ready
FROZEN_S = 90.0  # after a change of the number of pods, and of those that serve
SHORTEST_START_S = 10.0  # that a pod may be believed to need to become ready
_RATE = 0.5  # weight of what was counted last
_SURPRISE = 4.0  # standard deviations
_TREND = 0.3
_LENGTH = 0.2
_HITS = 0.3
_ACCEPTED = 0.4
_KEPT = 0.3
_KEPT_RANGE = (0.8, 1.0)
_KEPT_AT_FIRST = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """Beliefs; None: nothing was counted yet."""

    requests: float | None = None  # per second
    jumped: bool = False  # so many more have come since the last look that chance is no reason
    prompt_tokens: float | None = None  # per second
    trend: float = 0.0  # of requests per second, per second
    prompt_length: float | None = None
    output_length: float | None = None
    context: float | None = None
    drafted: float | None = None  # tokens for each row
    accepted_length: float | None = None
    hit_share: float | None = None
    hit_pods: int = 1  # behind the hit share
    kept: float = _KEPT_AT_FIRST  # of the hit share when pods double
    costs: Costs | None = None  # of a step
    start_s: float | None = None  # that a new pod needs to become ready
    start_seen: bool = False  # from its creation on, and not guessed from what pods tell
    gathered_prompts: Counted = field(default_factory=Counted)  # too few to judge hits by
    gathered_rows: Counted = field(default_factory=Counted)  # too few to judge drafts by


def learned(
    before: Estimates,
    look: Look,
    windows: Mapping[str, Window],
    seconds: float,
    *,
    arrived: float | None,
    frozen: bool,
) -> Estimates:
    """What is believed after a look.

    Args:
        before: what was believed at the last one.
        look: the one of now.
        windows: what pods have counted, by uid.
        seconds: since the last look.
        arrived: requests per second at routers; None: they come straight to pods, which count them.
        frozen: the number of pods has changed lately.
    """
    found = _demand(before, windows.values(), seconds, arrived)
    warm = [windows[pod.uid] for pod in look.pods if pod.warm and pod.uid in windows]
    seen = counts.total(warm)
    found = _drafts(found, seen)
    found = replace(found, costs=_costs(found, look))
    if frozen:
        return replace(found, gathered_prompts=counts.NOTHING)
    return _hits(found, seen, len(warm))


def started(before: Estimates, look: Look, served: frozenset[str], seconds: float) -> Estimates:
    """With what the pods needed that are seen serving for the first time.

    Of older pods it is not known whether they have begun to serve then, or only begun again: what
    they tell counts until a start was seen, and where it is too long for one it does not.

    Args:
        before: what was believed.
        look: the one of now.
        served: uids of pods that were seen serving before.
        seconds: for which pods have been looked at without a gap.
    """
    took = [
        (pod.age_s <= seconds, max(pod.age_s - pod.ready_for_s, SHORTEST_START_S))
        for pod in look.serving
        if pod.uid not in served and pod.ready_for_s is not None and not pod.restarted
    ]
    if seen := [start_s for whole, start_s in took if whole]:
        known = before.start_s if before.start_seen else None
        start_s = _mixed(known, min(max(seen), look.longest_start_s), _RATE)
        return replace(before, start_s=start_s, start_seen=True)
    guesses = [start_s for _, start_s in took if start_s <= look.longest_start_s]
    if before.start_seen or not guesses:
        return before
    # Some may have waited for a node, which the next ones need not.
    known_s = [] if before.start_s is None else [before.start_s]
    return replace(before, start_s=min([*known_s, *guesses]))


def demand(known: Estimates, look: Look) -> Demand:
    """What clients ask for."""
    told = [pod.state for pod in look.serving if pod.state is not None]
    prompt = known.prompt_length or UNKNOWN_LENGTH
    output = known.output_length or UNKNOWN_LENGTH
    context = known.context or prompt + output / 2
    unshared = [s.unshared_tokens_per_request for s in told if s.unshared_tokens_per_request]
    return Demand(
        requests=known.requests or 0.0,
        prompt_tokens=known.prompt_tokens or 0.0,
        prompt_length=prompt,
        output_length=output,
        waiting=float(sum(state.waiting or 0 for state in told) + look.queue),
        context=context,
        unshared=sum(unshared) / len(unshared) if unshared else prompt + output,
    )


def growth(known: Estimates, ahead_s: float) -> float:
    """How many times as many requests there will be in a while, if the trend goes on."""
    if not known.requests:
        return 1.0
    return 1.0 + max(0.0, known.trend) * ahead_s / known.requests


def worth(known: Estimates, look: Look) -> Worth:
    """What caches and drafts deliver. Routers lead what begins alike to the same pods."""
    return Worth(
        hit_share=known.hit_share or 0.0,
        accepted_length=max(known.accepted_length or 1.0, 1.0),
        pods=known.hit_pods,
        kept=known.kept if look.routers is None else 1.0,
    )


def _costs(known: Estimates, look: Look) -> Costs | None:
    """Of a step: the median of what warm pods have fitted, else others; else what was believed.

    A fit in which prompts or answers cost nothing has not seen them lately: where nearly all of
    each prompt is cached, steps say little of prompts.
    """
    told = [
        (pod.warm, fit)
        for pod in look.pods
        if pod.state is not None and (fit := pod.state.step_fit) is not None
    ]
    told = [each for each in told if each[1].prompt_token > 0.0]
    told = [each for each in told if each[1].row + each[1].kv_token > 0.0]
    fits = [fit for warm, fit in told if warm] or [fit for _, fit in told]
    if not fits:
        return known.costs
    return Costs(
        base=median(fit.base for fit in fits),
        prompt_token=median(fit.prompt_token for fit in fits),
        row=median(fit.row + fit.drafted_token * (known.drafted or 0.0) for fit in fits),
        kv_token=median(fit.kv_token for fit in fits),
    )


def room(look: Look) -> Room | None:
    """Of one pod: the smallest, with the most hot tokens; None: none has told.

    Without a router each pod gets all prompts that come again and again, with one each its part.
    """
    told = [
        (state.max_running, state.kv_tokens.capacity, state.kv_tokens.hot or 0)
        for pod in look.serving
        if (state := pod.state) is not None
        if state.kv_tokens is not None and state.kv_tokens.capacity and state.max_running
    ]
    if not told:
        return None
    rows, capacities, hot = zip(*told, strict=True)
    split = look.routers is not None
    return Room(
        rows=min(rows),
        kv_tokens=min(capacities),
        hot_tokens=sum(hot) if split else max(hot),
        split=split,
    )


def _demand(
    before: Estimates, windows: Iterable[Window], seconds: float, arrived: float | None
) -> Estimates:
    told = [window for window in windows if window.seconds > 0.0]
    seen = counts.total(told)
    length = _ratio(
        before.prompt_length, seen.arrived_prompt_tokens, seen.arrived_requests, _LENGTH
    )
    if arrived is None:
        now = sum(window.counted.arrived_requests / window.seconds for window in told)
        prompts = sum(window.counted.arrived_prompt_tokens / window.seconds for window in told)
    else:
        now, prompts = arrived, arrived * (UNKNOWN_LENGTH if length is None else length)
    jumps = _jumps(before.requests, now, seconds)
    jumped = jumps and before.requests is not None
    weight = 1.0 if jumps else _RATE
    requests = _mixed(before.requests, now, weight)
    old = requests if before.requests is None else before.requests
    return replace(
        before,
        requests=requests,
        jumped=jumped,
        prompt_tokens=_mixed(before.prompt_tokens, prompts, weight),
        trend=before.trend if jumps else _mixed(before.trend, (requests - old) / seconds, _TREND),
        prompt_length=length,
        output_length=_ratio(
            before.output_length, seen.finished_output_tokens, seen.finished_requests, _LENGTH
        ),
        context=_ratio(before.context, seen.kv_tokens_read, seen.decoded_rows, _LENGTH),
    )


def _jumps(before: float | None, now: float, seconds: float) -> bool:
    """So many more requests have come that chance is no reason: arrivals are Poisson."""
    if before is None:
        return True
    expected = before * seconds
    return now * seconds > expected + _SURPRISE * sqrt(expected + 1.0)


def _drafts(before: Estimates, seen: Counted) -> Estimates:
    seen = before.gathered_rows + seen
    if seen.decoded_rows < LEAST_ROWS:
        return replace(before, gathered_rows=seen)
    drafted = _ratio(before.drafted, seen.drafted_tokens, seen.decoded_rows, _ACCEPTED)
    length = _ratio(before.accepted_length, seen.decode_tokens, seen.decoded_rows, _ACCEPTED)
    return replace(before, drafted=drafted, accepted_length=length, gathered_rows=counts.NOTHING)


def _hits(before: Estimates, warm: Counted, pods: int) -> Estimates:
    seen = before.gathered_prompts + warm
    prompts = seen.cached_prompt_tokens + seen.computed_prompt_tokens
    if prompts < LEAST_PROMPT_TOKENS or pods < 1:
        return replace(before, gathered_prompts=seen)
    before = replace(before, gathered_prompts=counts.NOTHING)
    share = min(seen.cached_prompt_tokens / prompts, LARGEST_HIT_SHARE)
    if before.hit_share is None:
        return replace(before, hit_share=share, hit_pods=pods)
    if pods != before.hit_pods:  # what they kept is known now, and counts at once
        return replace(before, hit_share=share, hit_pods=pods, kept=_kept(before, share, pods))
    return replace(before, hit_share=_mixed(before.hit_share, share, _HITS))


def _kept(before: Estimates, share: float, pods: int) -> float:
    """What stays of the hit share when pods double, from what became of it."""
    if pods <= before.hit_pods or not before.hit_share or not share:
        return before.kept
    low, high = _KEPT_RANGE
    seen = (share / before.hit_share) ** (1.0 / log2(pods / before.hit_pods))
    return _mixed(before.kept, min(max(seen, low), high), _KEPT)


def _ratio(before: float | None, part: float, whole: float, weight: float) -> float | None:
    return before if whole <= 0 else _mixed(before, part / whole, weight)


def _mixed(before: float | None, now: float, weight: float) -> float:
    return now if before is None else (1.0 - weight) * before + weight * now
