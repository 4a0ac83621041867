"""`aweigh bench scheduler`: what deciding costs per step. No model, no server, no network."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from aweigh_bench import machine
from aweigh_bench.measures import percentile
from aweigh_bench.progress import progress
from aweigh_bench.report import Bar, Cell, Report, Table
from aweigh_bench.traffic import Length
from aweigh_runtime.engine.messages import Sampling, Submission
from aweigh_runtime.engine.naming import Name, extend, salt
from aweigh_runtime.engine.prefixes import Memory
from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.scheduler import Limits, Scheduler

STEP_BAR_MS, POOL_BAR, NAMING_BAR_NS = 0.4, 2.0, 150.0
BLOCK_TOKENS = 16
PROMPT_TOKENS = 16
ANSWER_TOKENS = (8, 40)  # so that 256 requests fit into a thousand blocks
NAMED_TOKENS = 100_000
NAMING_ROUNDS = 15
STEP_TOKENS = 8192
STEP_S = 0.01
LONG_TOKENS = 131_072
LONGEST = 2 * LONG_TOKENS
LONG_ASKERS = 3
LONG_PROMPTS, SHARED_PROMPTS, LONG_ANSWERS = (16, 1500), (16, 750), (100, 500)
NUM_PREFIXES, PREFIX_TOKENS = 10, 752
BLOCKS_EACH = 57  # that such a request holds on average
SPARE_BLOCKS = 6400  # fewer than the long prompt needs


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    running: int = 256
    pools: Sequence[int] = (1_000, 10_000, 100_000, 1_000_000)  # blocks
    steps: int = 1000
    seed: int = 0
    command: str = "aweigh bench scheduler"


@dataclass(frozen=True, slots=True)
class Case:
    """Requests of one kind, and the memory they share."""

    name: str
    num_blocks: int
    prompt: Length = (PROMPT_TOKENS, PROMPT_TOKENS)
    answer: Length = ANSWER_TOKENS
    num_prefixes: int = 0  # that prompts begin with, PREFIX_TOKENS each
    host_blocks: int = 0
    long_waits: bool = False  # a cached prompt too long for the memory that is left


@dataclass(frozen=True, slots=True)
class Steps:
    """Times of a run."""

    case: Case
    running: float  # requests in a step, on average
    changes: float  # requests that come and go in a step, on average
    times_ms: list[float]  # sorted

    @property
    def middle_ms(self) -> float:
        """What the bar is for."""
        return percentile(self.times_ms, 50)


class Fleet:
    """Requests that come, decode and go, as the step loop would let them."""

    def __init__(self, case: Case, running: int, seed: int) -> None:
        self.finished = 0
        self.deciding_s = 0.0  # in the scheduler, in the last step
        self._case = case
        self._random = random.Random(seed)
        self._next_id = 0
        self._now_s = 0.0
        self._prefixes = [self._draw(PREFIX_TOKENS) for _ in range(case.num_prefixes)]
        limits = Limits(max_running=running, step_tokens=STEP_TOKENS, max_model_len=LONGEST)
        memory = Memory(
            num_blocks=case.num_blocks,
            block_tokens=BLOCK_TOKENS,
            num_host_blocks=case.host_blocks,
        )
        self._scheduler = Scheduler(limits, memory)
        long = self._draw(LONG_TOKENS) if case.long_waits else []
        _fill(self._scheduler, long)
        for _ in range(running):
            self._come()
        for _ in range(LONG_ASKERS if case.long_waits else 0):
            self._add(long, 1, priority=1)  # behind all others, who would wait for it otherwise

    @property
    def num_waiting(self) -> int:
        """Requests without a turn."""
        return self._scheduler.num_waiting

    def step(self) -> int:
        """One step; returns how many requests it computed."""
        self._now_s += STEP_S
        started_s = time.perf_counter()
        step = self._scheduler.step(self._now_s)
        for part in step.parts:
            self._scheduler.advance(part, 0)
        self._scheduler.kv_tokens(self._now_s)
        self.deciding_s = time.perf_counter() - started_s
        for part in step.parts:
            request = part.request
            if part.end == len(request.tokens):
                request.tokens.append(self._random.getrandbits(16))
                if len(request.tokens) >= request.max_tokens:
                    self._replace(request)
        return len(step.parts)

    def _replace(self, request: Request) -> None:
        started_s = time.perf_counter()
        self._scheduler.finish(request)
        self.deciding_s += time.perf_counter() - started_s
        self.finished += 1
        self._come()

    def _come(self) -> None:
        prefix = self._random.choice(self._prefixes) if self._prefixes else []
        prompt = [*prefix, *self._draw(self._random.randint(*self._case.prompt))]
        self._add(prompt, self._random.randint(*self._case.answer))

    def _add(self, prompt: list[int], answer: int, priority: int = 0) -> None:
        self._next_id += 1
        submission = Submission(
            self._next_id, prompt[:], answer, [], Sampling(temperature=0.0), priority=priority
        )
        request = Request.of(submission)
        started_s = time.perf_counter()
        self._scheduler.add(request, self._now_s)
        self.deciding_s += time.perf_counter() - started_s

    def _draw(self, count: int) -> list[int]:
        return [self._random.getrandbits(16) for _ in range(count)]


def hard_cases(running: int) -> list[Case]:
    """What makes deciding costly: long contexts, shared ones, full memory."""
    full = max(BLOCKS_EACH * running + SPARE_BLOCKS, LONG_TOKENS // BLOCK_TOKENS + 8)
    roomy = full + 2 * BLOCKS_EACH * running
    contexts = Case("contexts to 2,000 tokens", roomy, LONG_PROMPTS, LONG_ANSWERS)
    crowded = replace(contexts, num_blocks=full)
    shared = replace(contexts, prompt=SHARED_PROMPTS, num_prefixes=NUM_PREFIXES)
    return [
        contexts,
        replace(shared, name="the same, half of each prompt shared"),
        replace(crowded, name="the same, each eviction to host memory", host_blocks=4 * full),
        replace(crowded, name="the same, a cached prompt of 131k waits", long_waits=True),
        replace(
            shared,
            name="all of these together",
            num_blocks=full,
            host_blocks=4 * full,
            long_waits=True,
        ),
    ]


async def run(options: Options) -> Report:
    """Steps for each size of the pool, the hard cases, then the naming of blocks."""
    easy = [Case(f"short, {blocks:,} blocks", blocks) for blocks in options.pools]
    hard = hard_cases(options.running)
    with progress("cases", len(easy) + len(hard)) as advance:
        found = []
        for case in (*easy, *hard):
            found.append(_steps(options, case))
            advance(case.name)
    return _report(options, found[: len(easy)], found[len(easy) :], _naming_ns())


def _fill(scheduler: Scheduler, long: list[int]) -> None:
    """Give every block a name, as in a server that has run for long: each new one evicts.

    The blocks that were used last hold the long prompt.
    """
    pool = scheduler.prefixes.pool
    names: list[Name] = []
    extend(names, long, b"", BLOCK_TOKENS, len(long) // BLOCK_TOKENS)
    others = pool.num_blocks - len(names)
    blocks = pool.take(pool.num_blocks)
    for block, name in zip(blocks[others:], names, strict=True):
        pool.name(block, name)
    for block in blocks[:others]:
        pool.name(block, block.to_bytes(32, "little"))
    pool.release(blocks[:others])
    pool.release(blocks[others:])


def _steps(options: Options, case: Case) -> Steps:
    fleet = Fleet(case, options.running, options.seed)
    for _ in range(case.answer[1]):  # until requests come and go evenly
        fleet.step()
    fleet.finished = 0
    times_ms, computed = [], 0
    for _ in range(options.steps):
        computed += fleet.step()
        times_ms.append(1e3 * fleet.deciding_s)
    times_ms.sort()
    per_step = fleet.finished / options.steps
    return Steps(case, computed / options.steps, per_step, times_ms)


def _naming_ns() -> float:
    """Nanoseconds for each token of a long prompt, median of some rounds."""
    tokens = [random.Random(1).getrandbits(17) for _ in range(NAMED_TOKENS)]
    root, seconds = salt(b"", None), []
    for _ in range(NAMING_ROUNDS):
        started_s = time.perf_counter()
        extend([], tokens, root, BLOCK_TOKENS, NAMED_TOKENS // BLOCK_TOKENS)
        seconds.append(time.perf_counter() - started_s)
    return 1e9 * median(seconds) / NAMED_TOKENS


def _report(options: Options, easy: list[Steps], hard: list[Steps], naming_ns: float) -> Report:
    smallest, largest = easy[0], easy[-1]
    rows: list[tuple[Cell, ...]] = [
        (
            steps.case.name,
            *(percentile(steps.times_ms, rank) for rank in (50, 90, 99)),
            sum(steps.times_ms) / len(steps.times_ms),
            steps.middle_ms / smallest.middle_ms,
            steps.running,
            steps.changes,
        )
        for steps in (*easy, *hard)
    ]
    columns = ("requests", "p50 ms", "p90", "p99", "mean", "ratio", "running", "come and go")
    ratio = largest.middle_ms / smallest.middle_ms
    pools = f"{largest.case.num_blocks:,} blocks, times that with {smallest.case.num_blocks:,}"
    return Report(
        title="Scheduler and block pool",
        command=options.command,
        model="none",
        machine=machine.describe(),
        tables=[Table(f"Deciding a step, {options.steps} steps each", columns, rows)],
        bars=[
            *(_bar(options, steps) for steps in (*easy, *hard)),
            _at_most(f"p50 with {pools}", ratio, POOL_BAR, ".2f"),
            _at_most("ns per token to name a prompt's blocks", naming_ns, NAMING_BAR_NS, ".0f"),
        ],
        notes=[
            f"Short: prompts of {PROMPT_TOKENS} tokens, answers of {ANSWER_TOKENS[0]} to "
            f"{ANSWER_TOKENS[1]}. Contexts to 2,000: prompts of {LONG_PROMPTS[0]} to "
            f"{LONG_PROMPTS[1]}, answers of {LONG_ANSWERS[0]} to {LONG_ANSWERS[1]}. Every block "
            "of the pool is cached at the start, so each new block evicts one.",
            f"{LONG_ASKERS} requests ask for the prompt that waits; it is tried whenever a step "
            "could take one more. Times hold what the scheduler and its pool do in a step: its "
            "plan, the naming of new requests, what is noted of each part once it is computed, "
            "and the report of the pool's use; not the model or sampling.",
        ],
        figures={
            "step_ms_p50": {steps.case.name: steps.middle_ms for steps in (*easy, *hard)},
            "naming_ns_per_token": naming_ns,
        },
    )


def _bar(options: Options, steps: Steps) -> Bar:
    what = f"p50 in ms with {options.running} running requests, {steps.case.name}"
    return _at_most(what, steps.middle_ms, STEP_BAR_MS, ".3f")


def _at_most(what: str, measured: float, most: float, digits: str) -> Bar:
    return Bar(what, f"<= {most:g}", f"{measured:{digits}}", measured <= most)
