"""What pods have counted over the last minutes of reports: hits, and guesses that were right. Pure.

Counters start at 0 with every boot of a pod, so what a new boot counts is all new. What a pod has
counted before the first report that is seen is known only when it started within those minutes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import astuple
from itertools import pairwise
from typing import NamedTuple

from aweigh_api.state import State
from aweigh_operator.observe import Counts, Pod

WINDOW_S = 300.0
MAX_SAMPLES = 20  # of one pod; reports come three times a minute


class Sample(NamedTuple):
    """The counters of one report."""

    seen_at_s: float
    boot_id: str
    uptime_s: float
    counts: Counts


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


def counts(window: Window, pods: Iterable[Pod], now_s: float) -> Counts:
    """What the pods that serve have counted in the window."""
    since_s = now_s - WINDOW_S
    found = [
        astuple(each)
        for pod in pods
        if pod.live and pod.ready
        for each in _increments(window.get(pod.uid, ()), since_s)
    ]
    return Counts(*map(sum, zip(*found, strict=True)))


def _extended(samples: tuple[Sample, ...], state: State | None, now_s: float) -> tuple[Sample, ...]:
    sample = None if state is None else _sample(state, now_s)
    if sample is not None and not (samples and _same_report(samples[-1], sample)):
        samples = (*samples, _sharing(samples[-1], sample) if samples else sample)
    # The last one before the window is what the first one in it is compared with.
    old = sum(each.seen_at_s <= now_s - WINDOW_S for each in samples)
    return samples[max(0, old - 1) :][-MAX_SAMPLES:]


def _sample(state: State, now_s: float) -> Sample:
    counted = Counts(
        *_pair(state.cached_prompt_tokens, state.computed_prompt_tokens),
        *_pair(state.drafted_tokens, state.accepted_tokens),
        *_pair(state.decode_tokens, state.decoded_rows),
    )
    return Sample(now_s, state.boot_id, state.uptime_s, counted)


def _sharing(before: Sample, sample: Sample) -> Sample:
    """The same sample, with what has not changed kept once: thousands of pods are idle."""
    boot_id = before.boot_id if before.boot_id == sample.boot_id else sample.boot_id
    counted = before.counts if before.counts == sample.counts else sample.counts
    return sample._replace(boot_id=boot_id, counts=counted)


def _pair(one: int | None, other: int | None) -> tuple[int, int]:
    """Two counters whose ratio matters: one without the other says nothing."""
    return (0, 0) if one is None or other is None else (max(0, one), max(0, other))


def _same_report(one: Sample, other: Sample) -> bool:
    return (one.boot_id, one.uptime_s) == (other.boot_id, other.uptime_s)


def _increments(samples: tuple[Sample, ...], since_s: float) -> Iterable[Counts]:
    if samples and samples[0].seen_at_s - samples[0].uptime_s >= since_s:
        yield samples[0].counts
    for before, after in pairwise(samples):
        if after.seen_at_s > since_s:
            yield _between(before, after)


def _between(before: Sample, after: Sample) -> Counts:
    if before.boot_id != after.boot_id:
        return after.counts
    pairs = zip(astuple(before.counts), astuple(after.counts), strict=True)
    return Counts(*(max(0, new - old) for old, new in pairs))
