"""What keeping prefixes costs where none is ever found: two servers, one keeps, one does not.

Both run at the same time and answer the same bursts in turn, a fraction of a second each, so that
whatever else the machine does hits both alike. Their memory is small and full, as that of a server
that has run for long: every new block of the one that keeps them evicts another.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from aweigh_bench.paired import Comparison, compare, verdict
from aweigh_bench.processes import TICK_S, engine_cpu_s
from aweigh_bench.report import Bar, Cell, Table
from aweigh_bench.subject import Setting, Subject, subject
from aweigh_bench.traffic import Query

OFF = "--no-prefix-cache-enabled"
CONCURRENCY = 8  # requests of a burst
PROMPT_TOKENS, ANSWER_TOKENS = 250, 32
BAR_PERCENT = 1.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Throughput with caching divided by that without, by two clocks."""

    wall: Comparison
    cpu: Comparison  # by the seconds that processors spent on the engine
    pair_requests: int

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
            f"{self.pair_requests} requests of {PROMPT_TOKENS} and {ANSWER_TOKENS} tokens to each "
            "server in a pair"
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
        self.wall_s += (await self.served.send(queries, CONCURRENCY)).duration_s

    def cpu_now(self) -> float:
        return engine_cpu_s(self.served.own.pid)


async def measure_cost(
    setting: Setting, pairs: int, pair_requests: int, advance: Callable[[], None]
) -> Cost:
    """Pairs of equal work; a first one, which warms both servers, is not counted.

    Both servers are new: prefixes that others have asked for again and again would keep their
    room, and fewer requests would run at once.
    """
    without = replace(setting, flags=(*setting.flags, OFF), seed=setting.seed + 1)
    wall, cpu = [], []
    async with subject(setting) as cached, subject(without) as uncached:
        cached.expect_fitting(PROMPT_TOKENS + ANSWER_TOKENS)
        for number in range(pairs + 1):
            on, off = await _pair(cached, uncached, pair_requests)
            if number:
                wall.append(off.wall_s / on.wall_s)
                cpu.append(off.cpu_s / on.cpu_s)
                advance()
    return Cost(compare(wall), compare(cpu), pair_requests)


async def _pair(cached: Subject, uncached: Subject, pair_requests: int) -> tuple[_Side, _Side]:
    """The same prompts to both; who goes first changes from burst to burst."""
    on, off = _Side(cached), _Side(uncached)
    before = on.cpu_now(), off.cpu_now()
    for number, start in enumerate(range(0, pair_requests, CONCURRENCY)):
        size = min(CONCURRENCY, pair_requests - start)
        queries = [Query(cached.ids.draw(PROMPT_TOKENS), ANSWER_TOKENS) for _ in range(size)]
        for side in (on, off) if number % 2 else (off, on):
            await side.burst(queries)
    for side, before_s in zip((on, off), before, strict=True):
        side.cpu_s = max(side.cpu_now() - before_s, TICK_S)
    return on, off


def _percent(ratio: float) -> str:
    return f"{100 * (1 - ratio):.2f}"
