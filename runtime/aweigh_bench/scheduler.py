"""`aweigh bench scheduler`: what deciding costs per step. No model, no server, no network."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from aweigh_bench import machine
from aweigh_bench.measures import percentile
from aweigh_bench.progress import progress
from aweigh_bench.report import Bar, Cell, Report, Table
from aweigh_runtime.engine.messages import Sampling, Submission
from aweigh_runtime.engine.naming import extend, salt
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    running: int = 256
    pools: Sequence[int] = (1_000, 10_000, 100_000, 1_000_000)  # blocks
    steps: int = 1000
    seed: int = 0
    command: str = "aweigh bench scheduler"


@dataclass(frozen=True, slots=True)
class Steps:
    """Times of a run."""

    num_blocks: int
    running: float  # requests in a step, on average
    changes: float  # requests that come and go in a step, on average
    times_ms: list[float]  # sorted


class Fleet:
    """Requests that come, decode and go, as the step loop would let them."""

    def __init__(self, num_blocks: int, running: int, seed: int) -> None:
        self.finished = 0
        self.deciding_s = 0.0  # in the scheduler, in the last step
        self._random = random.Random(seed)
        self._next_id = 0
        limits = Limits(max_running=running, step_tokens=STEP_TOKENS, max_model_len=4096)
        memory = Memory(num_blocks=num_blocks, block_tokens=BLOCK_TOKENS)
        self._scheduler = Scheduler(limits, memory)
        _fill(self._scheduler)
        for _ in range(running):
            self._come()

    def step(self) -> int:
        """One step; returns how many requests it computed."""
        started_s = time.perf_counter()
        step = self._scheduler.step(0.0)
        self.deciding_s = time.perf_counter() - started_s
        for part in step.parts:
            request = part.request
            request.computed = request.reached = part.end
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
        self._next_id += 1
        prompt = [self._random.getrandbits(16) for _ in range(PROMPT_TOKENS)]
        answer = self._random.randint(*ANSWER_TOKENS)
        submission = Submission(self._next_id, prompt, answer, [], Sampling(temperature=0.0))
        request = Request.of(submission)
        started_s = time.perf_counter()
        self._scheduler.add(request, 0.0)
        self.deciding_s += time.perf_counter() - started_s


async def run(options: Options) -> Report:
    """Steps for each size of the pool, then the naming of blocks."""
    with progress("pools", len(options.pools)) as advance:
        found = []
        for num_blocks in options.pools:
            found.append(_steps(options, num_blocks))
            advance(f"{num_blocks} blocks")
    return _report(options, found, _naming_ns())


def _fill(scheduler: Scheduler) -> None:
    """Give every block a name, as in a server that has run for long: each new one evicts."""
    pool = scheduler.prefixes.pool
    blocks = pool.take(pool.num_blocks)
    for block in blocks:
        pool.name(block, block.to_bytes(32, "little"))
    pool.release(blocks)


def _steps(options: Options, num_blocks: int) -> Steps:
    fleet = Fleet(num_blocks, options.running, options.seed)
    for _ in range(ANSWER_TOKENS[1]):  # until requests come and go evenly
        fleet.step()
    fleet.finished = 0
    times_ms, computed = [], 0
    for _ in range(options.steps):
        computed += fleet.step()
        times_ms.append(1e3 * fleet.deciding_s)
    times_ms.sort()
    per_step = fleet.finished / options.steps
    return Steps(num_blocks, computed / options.steps, per_step, times_ms)


def _naming_ns() -> float:
    """Nanoseconds for each token of a long prompt, median of some rounds."""
    tokens = [random.Random(1).getrandbits(17) for _ in range(NAMED_TOKENS)]
    root, seconds = salt(b"", None), []
    for _ in range(NAMING_ROUNDS):
        started_s = time.perf_counter()
        extend([], tokens, root, BLOCK_TOKENS, NAMED_TOKENS // BLOCK_TOKENS)
        seconds.append(time.perf_counter() - started_s)
    return 1e9 * median(seconds) / NAMED_TOKENS


def _report(options: Options, found: list[Steps], naming_ns: float) -> Report:
    middles = {steps.num_blocks: percentile(steps.times_ms, 50) for steps in found}
    smallest, largest = min(middles), max(middles)
    rows: list[tuple[Cell, ...]] = [
        (
            f"{steps.num_blocks:,}",
            *(percentile(steps.times_ms, rank) for rank in (50, 90, 99)),
            sum(steps.times_ms) / len(steps.times_ms),
            middles[steps.num_blocks] / middles[smallest],
            steps.running,
            steps.changes,
        )
        for steps in found
    ]
    columns = ("blocks", "p50 ms", "p90", "p99", "mean", "ratio", "running", "come and go")
    what = f"ms per step with {options.running} running requests"
    worst, ratio = middles[smallest], middles[largest] / middles[smallest]
    return Report(
        title="Scheduler and block pool",
        command=options.command,
        model="none",
        machine=machine.describe(),
        tables=[Table(f"Deciding a step, {options.steps} steps each", columns, rows)],
        bars=[
            Bar(what, f"<= {STEP_BAR_MS:g}", f"{worst:.3f}", worst <= STEP_BAR_MS),
            Bar(
                f"the same with {largest:,} blocks, times that with {smallest:,}",
                f"<= {POOL_BAR:g}",
                f"{ratio:.2f}",
                ratio <= POOL_BAR,
            ),
            Bar(
                "ns per token to name a prompt's blocks",
                f"<= {NAMING_BAR_NS:g}",
                f"{naming_ns:.0f}",
                naming_ns <= NAMING_BAR_NS,
            ),
        ],
        notes=[
            "Every block of the pool is cached at the start, so each new block evicts one; "
            f"prompts of {PROMPT_TOKENS} and answers of {ANSWER_TOKENS[0]} to {ANSWER_TOKENS[1]} "
            "tokens. Times hold what the scheduler and its pool do, not the model or sampling.",
        ],
        figures={
            "step_ms_p50": {str(blocks): middle for blocks, middle in middles.items()},
            "naming_ns_per_token": naming_ns,
        },
    )
