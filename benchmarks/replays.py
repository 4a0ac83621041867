"""Times operations on a GPU: by cold memory, replayed from CUDA graphs, ways in turn.

Operands rotate over more than 300 MB, and whatever is left in the second-level cache is displaced
before each replay: nothing is read from where an earlier call has left it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

import torch
import triton

from aweigh_bench import machine

COLD_BYTES = 320_000_000  # five times what an H200's second-level cache holds
MEMORY_BYTES_PER_S = 4.3e12  # what copying reaches on an H200
_MOST_SETS = 24
_LEAST_CALLS = 24
_ROUNDS = 12

Way = Callable[[int], object]
"""Does it with one of the rotating sets of operands."""


@dataclass(frozen=True)
class Times:
    """Of one call, in microseconds."""

    each: list[float]  # of every replay

    @property
    def median(self) -> float:
        return median(self.each)

    @property
    def p10(self) -> float:
        return quantiles(self.each, n=10)[0]

    @property
    def p90(self) -> float:
        return quantiles(self.each, n=10)[-1]


def in_turn(operations: Sequence[Callable[[torch.Tensor], object]], x: torch.Tensor) -> Way:
    """The way to apply one of several, whose operands rotate, to what stays in the cache."""
    return lambda which: operations[which % len(operations)](x)


def num_sets(set_bytes: int) -> int:
    """How many sets of operands rotate; of small ones fewer than would fill the cache."""
    return min(_MOST_SETS, max(2, -(-COLD_BYTES // max(set_bytes, 1))))


def interleaved(ways: Sequence[Way], sets: int, rounds: int = _ROUNDS) -> list[Times]:
    """Time ways of doing the same: A B C C B A, so that a drifting clock favours none.

    Args:
        ways: each is called with 0, 1, … sets - 1, again and again, in one graph.
        sets: of operands.
        rounds: replays of each, halved.
    """
    calls = max(sets, _LEAST_CALLS)
    graphs = [_graph(way, sets, calls) for way in ways]
    times: list[list[float]] = [[] for _ in ways]
    order = range(len(ways))
    for _ in range(rounds):
        for which in (*order, *reversed(order)):
            times[which].append(_replayed_us(graphs[which]) / calls)
    return [Times(each) for each in times]


def copy_bytes_per_s() -> float:
    """What a large copy moves here, read and written: the faster of two ways of torch's.

    A graph's copies run on an engine of their own, which is slower.
    """
    source = torch.randn(1 << 29, device="cuda")
    target = torch.empty_like(source)
    ways = (lambda: target.copy_(source), lambda: torch.neg(source, out=target))
    return 2 * source.nbytes / min(map(_once_us, ways)) * 1e6


def described() -> dict[str, str]:
    """The machine, with the version of what compiles its kernels."""
    return machine.describe() | {"triton": str(triton.__version__)}


def _graph(way: Way, sets: int, calls: int) -> torch.cuda.CUDAGraph:
    for which in range(sets):  # compiles what has to be compiled
        way(which)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in range(calls):
            way(call % sets)
    graph.replay()
    return graph


def _replayed_us(graph: torch.cuda.CUDAGraph) -> float:
    _displace()
    first, last = _event(), _event()
    first.record()
    graph.replay()
    last.record()
    last.synchronize()
    return 1000 * float(first.elapsed_time(last))


def _once_us(way: Callable[[], object]) -> float:
    """Of one call out of five, after one that is not counted."""
    way()
    times = []
    for _ in range(_ROUNDS):
        first, last = _event(), _event()
        first.record()
        for _ in range(5):
            way()
        last.record()
        last.synchronize()
        times.append(1000 * float(first.elapsed_time(last)) / 5)
    return median(times)


_others: list[torch.Tensor] = []


def _displace() -> None:
    """Read what is none of the operands: then the cache holds that, and has nothing to write."""
    if not _others:
        _others.append(torch.ones(COLD_BYTES // 4, device="cuda"))
    _others[0].sum()


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
