"""What keeping prefixes costs where none is ever found: two servers, one keeps, one does not.

Both run at the same time and answer the same bursts in turn, a fraction of a second each, so that
whatever else the machine does hits both alike. Their memory is small and full, as that of a server
that has run for long: every new block of the one that keeps them evicts another.

Two servers that are alike differ by some percent, and the one that is started first is mostly the
slower one. So they are started in either order, and a ratio is the geometric mean of two pairs, one
of each.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt

from aweigh_bench.paired import Comparison, compare, verdict
from aweigh_bench.processes import TICK_S, engine_cpu_s
from aweigh_bench.report import Bar, Cell, Table
from aweigh_bench.subject import Setting, Subject, subject
from aweigh_bench.traffic import Query

OFF = "--no-prefix-cache-enabled"
BAR_PERCENT = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What both servers are given."""

    pairs: int = 30
    pair_requests: int = 64  # to each server in a pair
    concurrency: int = 8  # requests of a burst
    prompt_tokens: int = 250
    answer_tokens: int = 32
    starts: int = 3  # of both servers in either order, among which the pairs are divided


@dataclass(frozen=True, slots=True)
class Cost:
    """Throughput with caching divided by that without, by two clocks."""

    wall: Comparison
    cpu: Comparison  # by the seconds that processors spent on the engine
    work: Work

    def table(self) -> Table:
        """Both clocks, one below the other."""
        columns = ("clock", "ratio", "low", "high", "pairs")
        clocks = {"wall": self.wall, "processor of the engine": self.cpu}
        rows: list[tuple[Cell, ...]] = [
            (clock, *(f"{value:.4f}" for value in (of.ratio, of.low, of.high)), of.pairs)
            for clock, of in clocks.items()
        ]
        title = (
            "Tokens/s with a full cache and 0 % hits, divided by those without: "
            f"{self.work.pair_requests} requests of {self.work.prompt_tokens} and "
            f"{self.work.answer_tokens} tokens, {self.work.concurrency} at once, to each server in "
            "a pair, started in either order"
        )
        return Table(title, columns, rows)

    def bar(self) -> Bar:
        """Judged by the wall clock."""
        wall, cpu = (
            f"{_percent(of.ratio)} ({_percent(of.high)} to {_percent(of.low)})"
            for of in (self.wall, self.cpu)
        )
        return Bar(
            "cost of caching at 0 % hits, in percent of throughput",
            f"< {BAR_PERCENT:g}",
            f"{wall} in {self.wall.pairs} pairs; by processor time {cpu}",
            verdict(self.wall, 1 - BAR_PERCENT / 100),
        )


@dataclass(slots=True)
class _Side:
    """One of the two servers, and what it took in the present pair."""

    served: Subject
    wall_s: float = 0.0
    cpu_s: float = 0.0

    async def burst(self, queries: list[Query]) -> None:
        self.wall_s += (await self.served.send(queries, len(queries))).duration_s

    def cpu_now(self) -> float:
        return engine_cpu_s(self.served.own.pid)


@dataclass(frozen=True, slots=True)
class _Ratio:
    """Time without caching, times that with it."""

    wall: float
    cpu: float


async def measure_cost(setting: Setting, work: Work, advance: Callable[[], None]) -> Cost:
    """Pairs of equal work, as many with either server started first."""
    found: list[_Ratio] = []
    starts = min(work.starts, work.pairs)
    for start in range(starts):
        count = work.pairs * (start + 1) // starts - work.pairs * start // starts
        part = replace(work, pairs=count)
        both = [
            await _ratios(setting, part, cached_first=first, advance=advance)
            for first in (True, False)
        ]
        found += map(_mean, *both)
    wall, cpu = [each.wall for each in found], [each.cpu for each in found]
    return Cost(compare(wall), compare(cpu), work)


async def _ratios(
    setting: Setting, work: Work, *, cached_first: bool, advance: Callable[[], None]
) -> list[_Ratio]:
    """Of two new servers; a first pair, which warms both, is not counted.

    Where they have served before, prefixes that others have asked for again and again would keep
    their room, and fewer requests would run at once.
    """
    without = replace(setting, flags=(*setting.flags, OFF), seed=setting.seed + 1)
    order = (setting, without) if cached_first else (without, setting)
    found = []
    async with subject(order[0]) as one, subject(order[1]) as other:
        cached, uncached = (one, other) if cached_first else (other, one)
        cached.expect_fitting(work.prompt_tokens + work.answer_tokens)
        for number in range(work.pairs + 1):
            on, off = await _pair(cached, uncached, work)
            if number:
                found.append(_Ratio(off.wall_s / on.wall_s, off.cpu_s / on.cpu_s))
                advance()
    return found


def _mean(one: _Ratio, other: _Ratio) -> _Ratio:
    return _Ratio(sqrt(one.wall * other.wall), sqrt(one.cpu * other.cpu))


async def _pair(cached: Subject, uncached: Subject, work: Work) -> tuple[_Side, _Side]:
    """The same prompts to both; who goes first changes from burst to burst."""
    on, off = _Side(cached), _Side(uncached)
    before = on.cpu_now(), off.cpu_now()
    for number, start in enumerate(range(0, work.pair_requests, work.concurrency)):
        size = min(work.concurrency, work.pair_requests - start)
        queries = [
            Query(cached.ids.draw(work.prompt_tokens), work.answer_tokens) for _ in range(size)
        ]
        for side in (on, off) if number % 2 else (off, on):
            await side.burst(queries)
    for side, before_s in zip((on, off), before, strict=True):
        side.cpu_s = max(side.cpu_now() - before_s, TICK_S)
    return on, off


def _percent(ratio: float) -> str:
    return f"{100 * (1 - ratio):.2f}"
