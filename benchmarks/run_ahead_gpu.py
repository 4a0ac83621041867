"""What launching a step before the last one is read saves on a GPU.

    python -m benchmarks.run_ahead_gpu [--shape llama-3.1-8b] [--traffic] [--save FILE.md]

The whole engine with random weights, greedy, its messages encoded as for the API process; each step
by itself and one ahead, in turns. Either the median step of so many answers that decode, or
traffic: 1.5 times as many requests as run at once, prompts of 200 and answers of 100 to 300 tokens,
no two prompts alike, so that prompts come into the steps all the time.

Of steps that decode, one ahead, some are profiled as well: the GPU is idle while no kernel runs.
Most of that lies within a graph, where a kernel waits a microsecond or two for the last one; gaps
that are longer are those that the host leaves.
"""

import argparse
import random
import shlex
import sys
import time
from pathlib import Path
from statistics import median

import msgspec
import torch

from aweigh_bench.report import Bar, Cell, Report, Table
from aweigh_bench.shapes import SHAPES, shape_directory
from aweigh_runtime.engine.assembly import build
from aweigh_runtime.engine.loop import Engine
from aweigh_runtime.engine.messages import Sampling, Start, Stepped, Submission, Work
from benchmarks.replays import described

BATCHES = (1, 64, 256, 512)
PROMPT, ANSWER = 32, 96
RUNNING = 256
TRAFFIC_PROMPT, TRAFFIC_ANSWERS = 200, (100, 300)
ROUNDS = 3
PROFILED, SETTLING = 50, 10  # steps; the first ones under a profiler wait for it
IDLE = (
    f"Idle: of {PROFILED} steps, by torch's profiler. It slows the host, which then needs longer "
    "for a step of 256 requests than the GPU."
)
LONG_GAP_US = 5.0
IDLE_BAR_PERCENT, IDLE_BAR_BATCH = 3.0, 64
DECODING = (
    "requests", "step ms", "one ahead ms", "saved ms", "tokens/s", "one ahead tokens/s", "idle %",
    "in long gaps %",
)  # fmt: skip
TRAFFIC = ("requests at once", "tokens/s", "one ahead tokens/s", "times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--traffic", action="store_true")
    parser.add_argument("--save", type=Path, action="append", default=[])
    given = parser.parse_args()
    most = RUNNING if given.traffic else max(given.batches)
    with shape_directory(given.shape) as directory:
        engine, ready = build(_start(most), directory, lambda done, total: None)
    driver = Driver(engine, ready.vocab_size)
    table = _traffic(driver) if given.traffic else _decoding(driver, given.batches)
    report = Report(
        title="One step ahead on a GPU",
        command=f"python -m benchmarks.run_ahead_gpu {shlex.join(sys.argv[1:])}".strip(),
        model=f"{given.shape}, random weights, {ready.dtype}",
        machine=described(),
        tables=[table],
        bars=[] if given.traffic else _bars(table),
        notes=[] if given.traffic else [IDLE],
    )
    print(report.text())
    for path in given.save:
        report.save(path)


def _decoding(driver: "Driver", batches: list[int]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for batch in batches:
        alone, ahead = (median(times) for times in driver.decode(batch))
        idle = [100 * share for share in idle_shares(driver.kernels(batch))]
        rows.append(
            (
                batch, 1e3 * alone, 1e3 * ahead, 1e3 * (alone - ahead), batch / alone,
                batch / ahead, *idle,
            )
        )  # fmt: skip
    return Table("Answers alone: median step", DECODING, rows)


def _bars(table: Table) -> list[Bar]:
    idle = {row[0]: row[-2] for row in table.rows}.get(IDLE_BAR_BATCH)
    if not isinstance(idle, float):
        return []
    what = f"time without a kernel, steps of {IDLE_BAR_BATCH} one ahead, in percent"
    bar = IDLE_BAR_PERCENT
    return [Bar(what, f"<= {bar:g}", f"{idle:.2f}", idle <= bar)]


def idle_shares(kernels: list[tuple[float, float]]) -> tuple[float, float]:
    """Of the time from the first kernel's start to the last one's end: without any, in long gaps.

    Args:
        kernels: when each started and ended, in us; they may overlap.
    """
    ordered = sorted(kernels)
    first, busy_until = ordered[0]
    gaps = []
    for start, end in ordered:
        gaps.append(max(0.0, start - busy_until))
        busy_until = max(busy_until, end)
    span = busy_until - first
    return sum(gaps) / span, sum(gap for gap in gaps if gap > LONG_GAP_US) / span


def _traffic(driver: "Driver") -> Table:
    alone, ahead = driver.traffic(RUNNING * 3 // 2)
    return Table("Traffic: median of the rounds", TRAFFIC, [(RUNNING, alone, ahead, ahead / alone)])


class Driver:
    """Asks an engine, and takes the time of its steps."""

    def __init__(self, engine: Engine, vocab_size: int) -> None:
        self._engine = engine
        self._vocab_size = vocab_size
        self._chance = random.Random(0)
        self._last_id = 0

    def decode(self, batch: int) -> tuple[list[float], list[float]]:
        """Seconds of steps of so many answers, by themselves and one ahead."""
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            for ahead, found in enumerate(times):
                self._engine.runs_ahead = bool(ahead)
                self._submit(batch, PROMPT, (ANSWER, ANSWER))
                steps = self._run()
                found += [s for s, report in steps if report.num_tokens == batch][8:-2]
        return times

    def traffic(self, count: int) -> tuple[float, float]:
        """Tokens per second of so many requests, by themselves and one ahead."""
        rates: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            for ahead, found in enumerate(rates):
                self._engine.runs_ahead = bool(ahead)
                self._submit(count, TRAFFIC_PROMPT, TRAFFIC_ANSWERS)
                steps = self._run()
                tokens = sum(len(each.tokens) for _, step in steps for each in step.outputs)
                found.append(tokens / sum(seconds for seconds, _ in steps))
        return median(rates[0]), median(rates[1])

    def kernels(self, batch: int) -> list[tuple[float, float]]:
        """Start and end, in us, of the kernels of some steps of so many answers, one ahead."""
        self._engine.runs_ahead = True
        self._submit(batch, PROMPT, (ANSWER, ANSWER))
        self._run(ANSWER - PROFILED - SETTLING - 8)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
            self._run(SETTLING + PROFILED)
            torch.cuda.synchronize()
        self._run()
        kernels = sorted(
            (event.time_range.start, event.time_range.end)
            for event in found.events() or []
            if event.device_type.name == "CUDA" and not event.name.startswith("Mem")
        )
        return kernels[len(kernels) * SETTLING // (SETTLING + PROFILED) :]

    def _submit(self, count: int, prompt: int, answers: tuple[int, int]) -> None:
        asked = []
        lengths = random.Random(count)  # the same in every round
        for _ in range(count):
            self._last_id += 1
            tokens = [self._chance.randrange(self._vocab_size) for _ in range(prompt)]
            length = lengths.randint(*answers)
            asked.append(Submission(self._last_id, tokens, length, [], Sampling(temperature=0)))
        self._engine.take(Work(asked, []))

    def _run(self, most: int | None = None) -> list[tuple[float, Stepped]]:
        """Take steps until there is nothing to do, or so many."""
        steps: list[tuple[float, Stepped]] = []
        began_s = time.perf_counter()
        while self._engine.patience_s == 0 and len(steps) != most:
            report = self._engine.step()
            msgspec.msgpack.encode(report)
            ended_s = time.perf_counter()
            steps.append((ended_s - began_s, report))
            began_s = ended_s
        return steps


def _start(max_running: int) -> Start:
    return Start(
        uri="shape", revision=None, secret_dir=None, cache_dir="", max_model_len=1024,
        dtype="auto", quantization="auto", kv_cache_dtype="auto", device="cuda", exact=False,
        max_running=max_running, step_tokens=None, block_tokens=16, kv_cache_bytes=None,
        prefix_caching=True, prefix_cache_bytes=None, host_memory_bytes=0, random_weights=True,
    )  # fmt: skip


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("this measures a GPU, and none is visible")
    main()
