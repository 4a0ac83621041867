"""The report of a benchmark of products on a GPU, as all of them print and keep it."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from aweigh_bench.report import Bar, Report, Table
from benchmarks.replays import copy_bytes_per_s, described

COLD = "cold memory, median of 24 replays"  # as `replays` times
OF_FLOOR = 0.85  # share of it that is enough


def tell(
    module: str, title: str, model: str, tables: list[Table], bars: list[Bar], save: list[Path]
) -> None:
    """Print what a benchmark has found, and keep it.

    Args:
        module: of `benchmarks`.
        title: of the report.
        model: whose matrices were multiplied with.
        tables: of times.
        bars: that ours is held to.
        save: where it is kept.
    """
    report = Report(
        title=title,
        command=f"python -m benchmarks.{module} {shlex.join(sys.argv[1:])}".strip(),
        model=model,
        machine=described(),
        tables=tables,
        bars=bars,
        notes=[f"A large copy moves {copy_bytes_per_s() / 1e9:,.0f} GB/s here, read and written."],
    )
    print(report.text())
    for path in save:
        report.save(path)


def beside(
    name: str, ratios: Mapping[str, float | None], least: float, of_floor: float, others: str = ""
) -> Bar:
    """Ours against the fastest of others; so near the floor none can be much faster.

    What is faster than those that are here may still be too slow beside those that are not.

    Args:
        name: of the product.
        ratios: how many times as fast ours is as each of them; None: it is not here.
        least: what each of them should be.
        of_floor: share of the floor that ours reaches.
        others: what they are called together.
    """
    best = min((ratio for ratio in ratios.values() if ratio is not None), default=None)
    lacking = [other for other, ratio in ratios.items() if ratio is None]
    near = of_floor >= OF_FLOOR
    met: bool | None = None if lacking else True
    if near or (best is not None and best < least):
        met = near
    shown = "-" if best is None else f"{best:.3f}"
    if lacking:
        shown += f" without {' and '.join(lacking)}"
    return Bar(name, f"≥ {least}{others}, or {OF_FLOOR} of the floor", shown, met)
