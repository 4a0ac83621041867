"""The report of a benchmark of products on a GPU, as all of them print and keep it."""

import shlex
import sys
from pathlib import Path

from aweigh_bench.report import Bar, Report, Table
from benchmarks.replays import copy_bytes_per_s, described

COLD = "cold memory, median of 24 replays"  # as `replays` times


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
