"""The share of prompt tokens that came from prefix caches, over the last minutes of reports. Pure.

Counters start at 0 with every boot of a pod, so what a new boot counts is all new. What a pod has
counted before the first report that is seen is known only when it started within those minutes.
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import NamedTuple

from aweigh_api.state import State
from aweigh_operator.observe import Pod, PromptTokens

WINDOW_S = 300.0
MAX_SAMPLES = 16  # of one pod; reports come once a minute


class Sample(NamedTuple):
    """The counters of one report."""

    seen_at_s: float
    boot_id: str
    uptime_s: float
    cached: int
    computed: int


Window = Mapping[str, tuple[Sample, ...]]  # by the pod's uid, oldest first


def remembered(
    window: Window, pods: Iterable[Pod], states: Mapping[str, State], now_s: float
) -> Window:
    """The window with the newest reports, without pods that are gone and samples that are old."""
    extended = {
        pod.uid: _extended(window.get(pod.uid, ()), states.get(pod.uid), now_s)
        for pod in pods
        if pod.live
    }
    return {uid: samples for uid, samples in extended.items() if samples}


def prompt_tokens(window: Window, pods: Iterable[Pod], now_s: float) -> PromptTokens | None:
    """What the pods that serve have cached and computed in the window, unless it is nothing."""
    since_s = now_s - WINDOW_S
    found = [
        tokens
        for pod in pods
        if pod.live and pod.ready
        for tokens in _increments(window.get(pod.uid, ()), since_s)
    ]
    total = PromptTokens(sum(each.cached for each in found), sum(each.computed for each in found))
    return total if total.cached + total.computed else None


def _extended(samples: tuple[Sample, ...], state: State | None, now_s: float) -> tuple[Sample, ...]:
    sample = _sample(state, now_s)
    if sample is not None and not (samples and _same_report(samples[-1], sample)):
        samples = (*samples, sample)
    # The last one before the window is what the first one in it is compared with.
    old = sum(each.seen_at_s <= now_s - WINDOW_S for each in samples)
    return samples[max(0, old - 1) :][-MAX_SAMPLES:]


def _sample(state: State | None, now_s: float) -> Sample | None:
    if state is None or state.cached_prompt_tokens is None or state.computed_prompt_tokens is None:
        return None
    cached, computed = max(0, state.cached_prompt_tokens), max(0, state.computed_prompt_tokens)
    return Sample(now_s, state.boot_id, state.uptime_s, cached, computed)


def _same_report(one: Sample, other: Sample) -> bool:
    return (one.boot_id, one.uptime_s) == (other.boot_id, other.uptime_s)


def _increments(samples: tuple[Sample, ...], since_s: float) -> Iterable[PromptTokens]:
    if samples and samples[0].seen_at_s - samples[0].uptime_s >= since_s:
        yield PromptTokens(samples[0].cached, samples[0].computed)
    for before, after in pairwise(samples):
        if after.seen_at_s > since_s:
            yield _between(before, after)


def _between(before: Sample, after: Sample) -> PromptTokens:
    if before.boot_id != after.boot_id:
        return PromptTokens(after.cached, after.computed)
    return PromptTokens(
        max(0, after.cached - before.cached), max(0, after.computed - before.computed)
    )
