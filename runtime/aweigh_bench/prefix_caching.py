"""`aweigh bench prefix-caching`: what shared prefixes save, and what keeping them costs."""

from dataclasses import dataclass, field, replace

from aweigh_api import metrics
from aweigh_bench import machine
from aweigh_bench.caching_cost import Cost, Work, measure_cost
from aweigh_bench.failures import Impossible
from aweigh_bench.measures import Measures
from aweigh_bench.progress import Advance, progress
from aweigh_bench.report import Bar, Cell, Curves, Report, Table
from aweigh_bench.subject import Setting, Subject, subject
from aweigh_bench.traffic import Query

SAVED_BAR_PERCENT, TTFT_BAR = 85.0, 3.0
BAR_SHARE = 90  # percent of a prompt that is shared, where the bars hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    setting: Setting
    shares: list[int] = field(default_factory=lambda: [0, 25, 50, 75, 90, 95])  # percent
    prompt_tokens: int = 1000
    output_tokens: int = 8
    num_requests: int = 40
    work: Work = field(default_factory=Work)  # with caching on and off
    cost_only: bool = False
    small_memory: str = "16Mi"
    num_prefixes: int = 16  # that go round where they do not fit
    command: str = "aweigh bench prefix-caching"


@dataclass(frozen=True, slots=True)
class Sharing:
    """Requests that share so much of their prompts."""

    share: int
    measures: Measures
    computed_tokens: int  # of all prompts, as the server counts them

    @property
    def computed_percent(self) -> float:
        """Of the prompt tokens."""
        return 100 * self.computed_tokens / self.measures.prompt_tokens

    @property
    def ttft_ms(self) -> dict[int, float]:
        """Percentiles."""
        return self.measures.spreads["ttft"].percentiles


@dataclass(frozen=True, slots=True)
class Crowding:
    """Prefixes that go round in a cache that may be too small for them."""

    num_prefixes: int
    measures: Measures
    evicted_blocks: float | None


@dataclass(frozen=True, slots=True)
class Saving:
    """What shared prefixes save."""

    shared: list[Sharing]
    capacity: int | None  # tokens that there is room for where they crowd
    crowded: list[Crowding]


async def run(options: Options) -> Report:
    """Shares first, then evictions, then the cost where every new block evicts one."""
    setting = options.setting
    if setting.model is None and setting.shape is None:
        raise Impossible("nothing to measure: give a MODEL or --shape")
    small = replace(setting, flags=(*setting.flags, f"--kv-cache-memory={options.small_memory}"))
    saving_steps = 0 if options.cost_only else len(options.shares) + 2
    with progress("prefix caching", saving_steps + 2 * options.work.pairs) as advance:
        saving = None if options.cost_only else await _saving(options, small, advance)
        cost = await _cost(options, small, advance)
    return _report(options, saving, cost)


async def _saving(options: Options, small: Setting, advance: Advance) -> Saving:
    async with subject(options.setting) as served:
        shared = [await _sharing(options, served, share, advance) for share in options.shares]
    async with subject(small) as served:
        capacity = (await served.own.state()).get("kv_tokens", {}).get("capacity")
        crowded = [
            await _crowding(options, served, count, advance) for count in (2, options.num_prefixes)
        ]
    return Saving(shared, capacity, crowded)


async def _sharing(options: Options, served: Subject, share: int, advance: Advance) -> Sharing:
    """One request after the other, each with the same new beginning."""
    prefix = served.ids.draw(options.prompt_tokens * share // 100)
    own = options.prompt_tokens - len(prefix)
    queries = [
        Query([*prefix, *served.ids.draw(own)], options.output_tokens)
        for _ in range(options.num_requests)
    ]
    served.expect_fitting(options.prompt_tokens + options.output_tokens)
    before = (await served.own.state())["computed_prompt_tokens"]
    measures = await served.send(queries, 1)
    computed = (await served.own.state())["computed_prompt_tokens"] - before
    advance(f"{share} % shared")
    return Sharing(share, measures, computed)


async def _cost(options: Options, setting: Setting, advance: Advance) -> Cost | None:
    if not options.work.pairs:
        return None
    return await measure_cost(setting, options.work, lambda: advance("caching on and off"))


async def _crowding(options: Options, served: Subject, count: int, advance: Advance) -> Crowding:
    """Prefixes in turn: the longest unused one is always the next that is needed."""
    shared = options.prompt_tokens * BAR_SHARE // 100
    prefixes = [served.ids.draw(shared) for _ in range(count)]
    queries = [
        Query(
            [*prefixes[turn % count], *served.ids.draw(options.prompt_tokens - shared)],
            options.output_tokens,
        )
        for turn in range(4 * max(count, options.num_prefixes))
    ]
    before = await served.own.metric(metrics.PREFIX_CACHE_EVICTIONS)
    measures = await served.send(queries, 1)
    after = await served.own.metric(metrics.PREFIX_CACHE_EVICTIONS)
    advance(f"{count} prefixes")
    evicted = None if before is None or after is None else after - before
    return Crowding(count, measures, evicted)


def _report(options: Options, saving: Saving | None, cost: Cost | None) -> Report:
    report = Report(
        title="Prefix caching",
        command=options.command,
        model=str(options.setting.model or options.setting.shape),
        machine=machine.describe(),
        tables=[],
    )
    if saving is not None:
        report = _with_saving(report, options, saving)
    if cost is None:
        return report
    return replace(report, tables=[*report.tables, cost.table()], bars=[*report.bars, cost.bar()])


def _with_saving(report: Report, options: Options, saving: Saving) -> Report:
    shared, ranks = saving.shared, (50, 99)
    lines = {f"p{r}": [(float(each.share), each.ttft_ms[r]) for each in shared] for r in ranks}
    return replace(
        report,
        tables=[_shared_table(options, shared), _crowded_table(options, saving)],
        bars=_saving_bars(shared),
        notes=[
            "0 % shared is what it costs cold; the first request of each row computes the prefix."
        ],
        figures={str(each.share): each.measures.to_json() for each in shared},
        curves=[Curves("Time to first token", "% of the prompt shared", "ms", lines)],
    )


def _shared_table(options: Options, shared: list[Sharing]) -> Table:
    columns = ("shared", "TTFT p50 ms", "p99", "computed tokens", "computed %", "hit rate %")
    rows: list[tuple[Cell, ...]] = [
        (
            f"{each.share} %",
            each.ttft_ms[50],
            each.ttft_ms[99],
            each.computed_tokens,
            each.computed_percent,
            each.measures.hit_percent,
        )
        for each in shared
    ]
    title = f"{options.num_requests} prompts of {options.prompt_tokens} tokens, one after the other"
    return Table(title, columns, rows)


def _crowded_table(options: Options, saving: Saving) -> Table:
    columns = ("prefixes", "prefix tokens", "hit rate %", "evicted blocks", "TTFT p50 ms", "p99")
    tokens = options.prompt_tokens * BAR_SHARE // 100
    rows: list[tuple[Cell, ...]] = []
    for each in saving.crowded:
        times = each.measures.spreads["ttft"].percentiles
        figures = (each.measures.hit_percent, each.evicted_blocks, times[50], times[99])
        rows.append((str(each.num_prefixes), each.num_prefixes * tokens, *figures))
    room = "" if saving.capacity is None else f", room for {saving.capacity} tokens"
    return Table(f"Prefixes in turn with {options.small_memory} of KV memory{room}", columns, rows)


def _saving_bars(shared: list[Sharing]) -> list[Bar]:
    by_share = {each.share: each for each in shared}
    if not {0, BAR_SHARE} <= set(by_share):
        return []
    cold, warm = by_share[0], by_share[BAR_SHARE]
    saved = 100 - 100 * warm.computed_tokens / cold.computed_tokens
    faster = cold.ttft_ms[50] / warm.ttft_ms[50]
    tokens = f"prompt tokens saved with {BAR_SHARE} % shared, in percent"
    return [
        Bar(tokens, f">= {SAVED_BAR_PERCENT:g}", f"{saved:.1f}", saved >= SAVED_BAR_PERCENT),
        Bar("TTFT p50, times faster", f">= {TTFT_BAR:g}", f"{faster:.2f}", faster >= TTFT_BAR),
    ]
