"""What each kernel of a layer adds to a step that is replayed from a graph.

Kernels start early and wait for the one before, so that their durations overlap. What counts is how
long after the end of the one before each ends.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

FIRST = "attend_share"  # of its kernels a layer has one
_REPLAYS = 3
_MOST_KERNELS = 20  # of a layer: what lies between the last and the first one of a step is more


def ends_of(replay: Callable[[], None]) -> list[tuple[float, str]]:
    """When each kernel ended, in microseconds, and its name."""
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(_REPLAYS):
            replay()
        torch.cuda.synchronize()
    events = (each for each in found.events() if each.device_type.name == "CUDA")
    return sorted((each.time_range.end, each.name) for each in events)


def added(ends: Sequence[tuple[float, str]]) -> list[tuple[str, float]]:
    """The kernels of a layer in their order, from FIRST on, and what each adds, median us."""
    times = [0.0, *(end - before for (before, _), (end, _) in pairwise(ends))]
    firsts = [place for place, (_, name) in enumerate(ends) if FIRST in name]
    layers = [range(*each) for each in pairwise(firsts) if each[1] - each[0] <= _MOST_KERNELS]
    if not layers:
        return []
    usual, _ = Counter(map(len, layers)).most_common(1)[0]
    layers = [layer for layer in layers if len(layer) == usual]
    return [
        (ends[layers[0][place]][1], median(times[layer[place]] for layer in layers))
        for place in range(usual)
    ]
