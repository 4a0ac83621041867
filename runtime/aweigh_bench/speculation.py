"""`aweigh bench speculation`: the same questions to two servers, of which one drafts, in pairs."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median

from aweigh_bench import machine
from aweigh_bench.endpoint import Asking
from aweigh_bench.failures import Impossible
from aweigh_bench.load import together
from aweigh_bench.measures import measure
from aweigh_bench.paired import Comparison, compare, verdict
from aweigh_bench.progress import progress
from aweigh_bench.questions import Choice, Questions
from aweigh_bench.report import Bar, Cell, Curves, Report, Table
from aweigh_bench.shaped import cache_bytes, drafts_named, shaped
from aweigh_bench.subject import Setting, Subject, model_files, subject
from aweigh_bench.traffic import Length, Query
from aweigh_bench.wrong_draft import wrong_draft

COLUMNS = (
    *("up to", "at once", "without tok/s", "with tok/s", "ratio", "low", "high"),
    *("accepted %", "tokens a step", "state"),
)
BAR_ONE = 1.5  # times the tokens/s of one request at a time
BAR_WRONG = 0.98  # the same at any size, with drafts that are never right
BAR_USELESS = 0.99  # and where a shape's random weights make them so
_LEAST_REQUESTS = 8  # of each server in a pair
_COUNTED = ("drafted_tokens", "accepted_tokens", "decode_tokens", "decoded_rows")
_WARM_ROUNDS = 3  # in which the server learns what drafting is worth; of each size


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    setting: Setting
    draft_models: list[str]
    lookup: bool = False  # n-grams instead
    wrong: bool = False  # the draft's weights are replaced by random ones
    draft_shape: str | None = None  # a draft with random weights, for a shape
    max_draft_tokens: list[int] = field(default_factory=lambda: [8])
    batches: list[int] = field(default_factory=lambda: [1, 4, 16, 64])
    input_tokens: Length = (64, 64)  # of random prompts
    output_tokens: int = 64
    pairs: int = 12
    starts: int = 1  # of the servers, among which pairs are divided
    choices: list[Choice] = field(default_factory=lambda: ["greedy"])
    questions: Path | None = None  # one in each line
    command: str = "aweigh bench speculation"


@dataclass(frozen=True, slots=True)
class Found:
    """What one batch size gave at one length."""

    longest: int
    size: int
    gain: Comparison
    with_drafts: float  # tokens/s
    without: float
    acceptance: float | None  # share of drafted tokens; None: none were drafted
    per_step: float | None  # tokens that an answer grew by
    state: str
    alike: tuple[int, int] = (0, 0)  # answers of the same text from both, of so many
    choice: Choice = "greedy"

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Under `COLUMNS`."""
        return (
            *(str(self.longest), str(self.size), self.without, self.with_drafts),
            *(f"{value:.3f}" for value in (self.gain.ratio, self.gain.low, self.gain.high)),
            None if self.acceptance is None else 100 * self.acceptance,
            None if self.per_step is None else f"{self.per_step:.2f}",
            self.state,
        )


@dataclass(slots=True)
class _Seen:
    """What one batch size and choice gave at one length until now, over all starts."""

    size: int
    choice: Choice
    pairs: list[tuple[float, float]] = field(default_factory=list)  # tokens/s with drafts, without
    counted: Counter[str] = field(default_factory=Counter)  # by the server that drafts
    state: str = "unknown"
    same: int = 0  # texts from both
    compared: int = 0  # of so many


async def run(options: Options) -> Report:
    """Every pair asks both servers the same; who goes first alternates, and who starts first."""
    _check(options)
    with shaped(options.setting, options.draft_models, options.draft_shape) as pair:
        served = replace(options, setting=pair.setting, draft_models=list(pair.draft_models))
        if options.setting.shape is not None:
            served = _within_memory(served)
        asked = Questions(served.setting, served.questions, served.input_tokens)
        found = await _run(served, asked)
    return _report(options, found, chats=asked.chats)


async def _run(options: Options, asked: Questions) -> list[Found]:
    found: list[Found] = []
    starts = _split(options.pairs, options.starts)
    rounds = options.pairs + len(starts) * _WARM_ROUNDS
    # Choices of a size come one after the other, so that little but the choice differs.
    cases = list(itertools.product(options.batches, options.choices))
    count = len(options.max_draft_tokens) * len(cases) * rounds
    with progress("pairs", count) as advance, wrong_draft(_original(options)) as replaced:
        for longest in options.max_draft_tokens:
            on = replace(options.setting, flags=_flags(options, longest, replaced))
            seen = [_Seen(size, choice) for size, choice in cases]
            for start, pairs in enumerate(starts):
                async with _servers(on, options.setting, plain_first=start % 2 == 1) as servers:
                    for each in seen:
                        what = f"{each.choice}, {each.size} at once, up to {longest} drafted"
                        step = partial(advance, what)
                        await _measure(options, servers, asked, pairs, each, step)
            found += [_found(longest, each) for each in seen]
    return found


def _within_memory(options: Options) -> Options:
    """Both servers take what the measurement needs, unless flags of the user say otherwise."""
    setting = options.setting
    longest = options.input_tokens[1] + options.output_tokens
    room = cache_bytes(setting, options.draft_models, longest, max(options.batches))
    flags = (f"--max-model-len={longest}", f"--kv-cache-memory={room}", *setting.flags)
    return replace(options, setting=replace(setting, flags=flags))


def _split(pairs: int, starts: int) -> list[int]:
    """Pairs of each start, as equally many as can be; a start has at least one."""
    starts = min(starts, pairs)
    return [pairs * (each + 1) // starts - pairs * each // starts for each in range(starts)]


@asynccontextmanager
async def _servers(
    drafting: Setting, plain: Setting, *, plain_first: bool
) -> AsyncIterator[tuple[Subject, Subject]]:
    """One that drafts, and one that does not."""
    if plain_first:
        async with subject(plain) as without, subject(drafting) as with_drafts:
            await _expect_drafts(with_drafts)
            yield with_drafts, without
    else:
        async with subject(drafting) as with_drafts, subject(plain) as without:
            await _expect_drafts(with_drafts)
            yield with_drafts, without


async def _expect_drafts(served: Subject) -> None:
    """A server goes on without a draft model that it cannot use; a measurement must not."""
    told = (await served.own.state()).get("speculation") or {}
    # The message of one that pauses says why it does not pay, and that is measured here.
    if told.get("state") != "paused" and told.get("message"):
        raise Impossible(f"{told['message']}; expected drafts from all that was named")


async def _measure(
    options: Options,
    servers: tuple[Subject, Subject],
    asked: Questions,
    pairs: int,
    seen: _Seen,
    advance: Callable[[], None],
) -> None:
    """Some pairs of one size."""
    own = servers[0].own
    for number in range(-_WARM_ROUNDS, pairs):
        if number == 0:
            before = await own.state()
        rates = await _pair(options, servers, asked, seen, number)
        if number >= 0:
            seen.pairs.append(rates)
        advance()
    after = await own.state()
    await _expect_drafts(servers[0])  # one may have been lost to memory meanwhile
    seen.counted.update({name: after.get(name, 0) - before.get(name, 0) for name in _COUNTED})
    seen.state = str((after.get("speculation") or {}).get("state", "unknown"))
    if seen.choice != "sampled":  # else no answer comes twice
        same, compared = await _alike(options, servers, asked, seen)
        seen.same += same
        seen.compared += compared


def _check(options: Options) -> None:
    drafts = drafts_named(options.draft_models, options.draft_shape)
    if options.lookup == bool(drafts):
        raise Impossible(
            "nothing, or too much, to draft with; expected --draft-model URI, or --draft-shape "
            "NAME, or --speculation ngram"
        )
    if options.wrong and options.draft_shape is not None:
        raise Impossible(
            f"--wrong gives a draft random weights, and --draft-shape ({options.draft_shape}) has "
            "no others; leave --wrong out"
        )
    if options.questions is not None and options.setting.shape is not None:
        raise Impossible(
            f"--questions is {options.questions}, and random weights of --shape "
            f"({options.setting.shape}) answer none; leave --questions out"
        )
    if options.wrong and len(options.draft_models) != 1:
        raise Impossible("--wrong replaces the weights of a draft; expected one --draft-model")


def _original(options: Options) -> Path | None:
    """The draft whose weights are to be replaced."""
    if not options.wrong:
        return None
    return model_files(replace(options.setting, model=options.draft_models[0]))


def _flags(options: Options, longest: int, replaced: Path | None) -> tuple[str, ...]:
    drafts = options.draft_models if replaced is None else [f"file://{replaced}"]
    how = ["--speculation=ngram"] if options.lookup else [f"--draft-model={uri}" for uri in drafts]
    return (*options.setting.flags, *how, f"--max-draft-tokens={longest}")


async def _pair(
    options: Options, servers: tuple[Subject, Subject], asked: Questions, seen: _Seen, number: int
) -> tuple[float, float]:
    """Tokens per second with drafts, and without."""
    queries = asked.draw(max(seen.size, _LEAST_REQUESTS), options.output_tokens)
    order = (0, 1) if number % 2 else (1, 0)
    rates = [0.0, 0.0]
    for each in order:
        served = servers[each]
        rates[each] = await _rate(served, asked.asking(served, seen.choice), queries, seen.size)
    return rates[0], rates[1]


async def _alike(
    options: Options, servers: tuple[Subject, Subject], asked: Questions, seen: _Seen
) -> tuple[int, int]:
    """How many of some answers are the same text from both servers, and of how many."""
    queries = asked.draw(max(seen.size, _LEAST_REQUESTS), options.output_tokens)
    texts = [
        await _texts(served, asked.asking(served, seen.choice), queries, seen.size)
        for served in servers
    ]
    return sum(one == other for one, other in zip(*texts, strict=True)), len(queries)


async def _texts(served: Subject, asking: Asking, queries: list[Query], size: int) -> list[str]:
    """What it answers, so many at a time."""
    turns = asyncio.Semaphore(size)

    async def one(query: Query) -> str:
        async with turns:
            return await served.endpoint.text(asking, query)

    return await asyncio.gather(*map(one, queries))


async def _rate(served: Subject, asking: Asking, queries: list[Query], size: int) -> float:
    measures = measure((await together(served.endpoint, asking, queries, size)).answers)
    if measures.failed:
        raise Impossible(f"a question was refused: {next(iter(measures.errors))}")
    return measures.output_throughput


def _found(longest: int, seen: _Seen) -> Found:
    counted = seen.counted
    drafted, rows = counted["drafted_tokens"], counted["decoded_rows"]
    return Found(
        longest=longest,
        size=seen.size,
        gain=compare([on / off for on, off in seen.pairs]),
        with_drafts=median(on for on, _ in seen.pairs),
        without=median(off for _, off in seen.pairs),
        acceptance=counted["accepted_tokens"] / drafted if drafted else None,
        per_step=counted["decode_tokens"] / rows if rows else None,
        state=seen.state,
        alike=(seen.same, seen.compared),
        choice=seen.choice,
    )


def _report(options: Options, found: list[Found], *, chats: bool) -> Report:
    rows: list[tuple[Cell, ...]] = [
        (each.choice, *each.cells, f"{each.alike[0]} of {each.alike[1]}" if each.alike[1] else None)
        for each in found
    ]
    drafts = drafts_named(options.draft_models, options.draft_shape)
    with_what = "n-gram lookup" if options.lookup else drafts
    if options.wrong or options.draft_shape is not None:
        with_what += " with random weights"
    lines: dict[str, list[tuple[float, float]]] = {}
    for each in found:
        name = f"{each.choice}, up to {each.longest}"
        lines.setdefault(name, []).append((each.size, each.gain.ratio))
    return Report(
        title="Speculative decoding beside plain decoding",
        command=options.command,
        model=str(options.setting.model or options.setting.shape),
        machine=machine.describe(),
        tables=[
            Table(
                f"{'Chats' if chats else 'Random prompts'}, answers of at most "
                f"{options.output_tokens} tokens, {' and '.join(options.choices)}, drafts from "
                f"{with_what}: median of {options.pairs} interleaved pairs",
                ("choice", *COLUMNS, "same text"),
                rows,
            )
        ],
        bars=[*_bars(options, found), *_exact_bars(options, found)],
        notes=[
            f"Both servers run at the same time, started {min(options.starts, options.pairs)} "
            "times, and get the same questions in turn. The first "
            f"{_WARM_ROUNDS} rounds of each size are not counted: there the server learns what "
            "drafting is worth.",
            "After them both are asked once more, and the texts of their answers compared. Only "
            "--serve-flag=--exact promises that they are the same: else rounding may differ.",
            f"Threads of torch: {options.setting.threads or 'as the server chooses'}.",
        ],
        figures={"found": [asdict(each) for each in found]},
        curves=[Curves("Tokens/s with drafts ÷ without", "requests at once", "ratio", lines)],
    )


def _bars(options: Options, found: list[Found]) -> list[Bar]:
    if options.wrong or options.setting.shape is not None:
        least = BAR_WRONG if options.wrong else BAR_USELESS
        drafts = "n-gram lookup" if options.lookup else "drafts that are wrong"
        return [
            Bar(
                f"tokens/s at {each.size} at once with {drafts}, {each.choice}, times those "
                "without",
                f">= {least:g}",
                str(each.gain),
                verdict(each.gain, least),
            )
            for each in found
        ]
    return [
        Bar(
            f"tokens/s of one at a time, up to {each.longest} drafted, times those without",
            f">= {BAR_ONE:g}",
            str(each.gain),
            verdict(each.gain, BAR_ONE),
        )
        for each in found
        if each.size == 1 and not options.lookup and each.choice == "greedy"
        # Shorter ones are beside it to tell what less would give.
        if each.longest == max(options.max_draft_tokens)
    ]


def _exact_bars(options: Options, found: list[Found]) -> list[Bar]:
    same, count = (sum(each.alike[place] for each in found) for place in (0, 1))
    if "--exact" not in options.setting.flags or count == 0:
        return []
    what = "answers with drafts that are the same text as without"
    return [Bar(what, "all", f"{same} of {count}", same == count)]
