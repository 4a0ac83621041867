"""Sampling on a GPU: ours beside torch's operations.

    python -m benchmarks.sampling_gpu [--save FILE.md] [--save FILE.json]

A vocabulary of Llama 3, 128,256 tokens. Logits fall as in a text, e^logit ~ rank^-1.2 (a top_p of
0.9 keeps about 60 tokens), but for the last way, whose logits are normal with a deviation of 2 (it
keeps about 30,000). They rotate over more than 300 MB of cold memory; calls are replayed from CUDA
graphs, in turn, after each drew tokens that are kept. Settings lie on the device. torch sorts, as
servers do that have no kernel for it.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from aweigh_bench.report import Bar, Cell, Report, Table
from aweigh_kernels.sampling_gpu import Choice, Settings, sample
from benchmarks.replays import Times, copy_bytes_per_s, described, interleaved, num_sets

SIZE = 128_256
ROWS = (1, 8, 64, 256)
NEAR = 1e-3  # of a probability
MOST_US = 60.0  # of 64 rows with top_k and top_p
WAYS = {
    "greedy": Choice(temperature=1.0, top_k=1),
    "temperature": Choice(temperature=0.8),
    "top_k 50, top_p 0.9": Choice(temperature=0.8, top_k=50, top_p=0.9),
    "top_p 0.9": Choice(temperature=0.8, top_p=0.9),
    "min_p 0.05": Choice(temperature=0.8, min_p=0.05),
    "top_p 0.9 of flat logits": Choice(temperature=1.0, top_p=0.9),
}
BAR = "top_k 50, top_p 0.9"
FLAT = "top_p 0.9 of flat logits"
COLUMNS = ("settings, rows", "us", "p10", "p90", "of reading once", "torch us", "x torch")


@dataclass(frozen=True)
class Case:
    """Rows that are all drawn in the same way."""

    name: str
    num_rows: int
    choice: Choice

    def __str__(self) -> str:
        return f"{self.name}, {self.num_rows}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, action="append", default=[])
    given = parser.parse_args()
    speed = copy_bytes_per_s()
    rows: list[tuple[Cell, ...]] = []
    bars: list[Bar] = []
    for case in _cases():
        ours, by_torch = _timed(case)
        floor_us = 1e6 * 4 * case.num_rows * SIZE / speed
        rows.append(
            (
                str(case), ours.median, ours.p10, ours.p90, floor_us / ours.median,
                by_torch.median, by_torch.median / ours.median,
            )
        )  # fmt: skip
        print(*rows[-1], flush=True)
        if case.name == BAR and case.num_rows == 64:
            met = ours.median <= MOST_US
            bars.append(Bar(f"{case} rows, us", f"≤ {MOST_US:g}", f"{ours.median:.1f}", met))
    report = Report(
        title="Sampling on a GPU",
        command=f"python -m benchmarks.sampling_gpu {shlex.join(sys.argv[1:])}".strip(),
        model="a vocabulary of 128,256 tokens, fp32 logits",
        machine=described(),
        tables=[Table("Cold memory, median of 24 replays", COLUMNS, rows)],
        bars=bars,
        notes=[f"A large copy moves {speed / 1e9:,.0f} GB/s here, read and written."],
    )
    print(report.text())
    for path in given.save:
        report.save(path)


def _cases() -> Iterator[Case]:
    for num_rows in ROWS:
        for name, choice in WAYS.items():
            yield Case(name, num_rows, choice)


def _timed(case: Case) -> list[Times]:
    logits = [_logits(case) for _ in range(num_sets(4 * case.num_rows * SIZE))]
    settings = Settings.of([case.choice] * case.num_rows, SIZE)
    packed = settings.at(range(case.num_rows), logits[0].device)
    draw = partial(sample, races=settings.races, weighs=settings.weighs)
    by_torch = _by_torch(case.choice)
    for tokens in (draw(logits[0], packed)[0], by_torch(logits[0])):
        expect_kept(case.choice, logits[0], tokens)
    return interleaved(
        [lambda which: draw(logits[which], packed), lambda which: by_torch(logits[which])],
        len(logits),
    )


def expect_kept(choice: Choice, logits: torch.Tensor, tokens: torch.Tensor) -> None:
    """Every token that was drawn is one that its settings keep, but for what rounding decides.

    Args:
        choice: of all rows.
        logits: [S, V].
        tokens: [S].

    Raises:
        RuntimeError: some are not.
    """
    ordered = (logits / choice.temperature).sort(-1, descending=True).values
    if choice.top_k:
        ordered = ordered[:, : choice.top_k]
    likely = ordered.softmax(-1)
    kept = likely.cumsum(-1) - likely < choice.top_p + NEAR
    kept &= likely >= (choice.min_p - NEAR) * likely[:, :1]
    least = ordered.masked_fill(~kept, torch.inf).amin(-1)
    drawn = logits.gather(-1, tokens[:, None]).squeeze(-1) / choice.temperature
    if wrong := int((drawn < least).sum()):
        raise RuntimeError(f"{wrong} of {len(tokens)} tokens are none that {choice} keeps")


def _logits(case: Case) -> torch.Tensor:
    if case.name == FLAT:
        return 2 * torch.randn(case.num_rows, SIZE, device="cuda")
    falling = -1.2 * torch.arange(1, SIZE + 1, device="cuda").log()
    return torch.stack([falling[torch.randperm(SIZE, device="cuda")] for _ in range(case.num_rows)])


def _by_torch(choice: Choice) -> Callable[[torch.Tensor], torch.Tensor]:
    if choice.top_k == 1:
        return lambda logits: logits.argmax(-1)

    def plain(logits: torch.Tensor) -> torch.Tensor:
        likely = (logits / choice.temperature).softmax(-1)
        if choice.min_p:
            likely.masked_fill_(likely < choice.min_p * likely.amax(-1, keepdim=True), 0.0)
        return likely.div_(torch.empty_like(likely).exponential_()).argmax(-1)

    def sorting(logits: torch.Tensor) -> torch.Tensor:
        ordered, tokens = (logits / choice.temperature).sort(-1, descending=True)
        if choice.top_k:
            ordered[:, choice.top_k :] = -torch.inf
        likely = ordered.softmax(-1)
        likely.masked_fill_(likely.cumsum(-1) - likely >= choice.top_p, 0.0)
        places = likely.div_(torch.empty_like(likely).exponential_()).argmax(-1, keepdim=True)
        return tokens.gather(-1, places).squeeze(-1)

    return sorting if choice.top_k or choice.top_p < 1.0 else plain


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("this measures a GPU, and none is visible")
    main()
