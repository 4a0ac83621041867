"""What a command has found, as text, Markdown or JSON. It formats; it measures nothing."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aweigh_bench.failures import BenchFailure, Impossible

Cell = str | int | float | None
SUFFIXES = (".json", ".md")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of figures."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]


@dataclass(frozen=True, slots=True)
class Bar:
    """A number that should be reached, beside the one that was."""

    what: str
    wanted: str
    measured: str
    met: bool | None  # None: what was measured is too uncertain to say

    def __str__(self) -> str:
        verdict = "undecided" if self.met is None else "met" if self.met else "MISSED"
        return f"{self.what}: {self.measured} (bar {self.wanted}: {verdict})"


@dataclass(frozen=True, slots=True)
class Curves:
    """One diagram: a line for each name."""

    title: str
    x: str
    y: str
    lines: dict[str, list[tuple[float, float]]]
    logarithmic: bool = False  # y


@dataclass(frozen=True, slots=True)
class Report:
    """All that one command has found."""

    title: str
    command: str
    model: str
    machine: dict[str, str]
    tables: list[Table]
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)  # for programs, in JSON only
    curves: list[Curves] = field(default_factory=list)

    def text(self) -> str:
        """For a terminal."""
        parts = [_heading(self)]
        parts += [f"{table.title}\n{_aligned(table)}" for table in self.tables]
        parts += ["\n".join(map(str, self.bars))] if self.bars else []
        parts += ["\n".join(self.notes)] if self.notes else []
        return "\n\n".join(parts)

    def markdown(self) -> str:
        """For a folder of results."""
        facts = [f"- {name}: {value}" for name, value in self.machine.items()]
        lines = [f"# {self.title}", "", f"- model: {self.model}", f"- command: `{self.command}`"]
        lines += facts
        for table in self.tables:
            lines += ["", f"## {table.title}", "", *_piped(table)]
        if self.bars:
            lines += ["", "## Bars", "", *(f"- {bar}" for bar in self.bars)]
        if self.notes:
            lines += ["", "## Notes", "", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines)

    def json(self) -> str:
        """For programs."""
        return json.dumps(asdict(self), indent=2)

    def save(self, path: Path) -> None:
        """Write it, as the file's suffix says."""
        content = self.json() if path.suffix == ".json" else self.markdown()
        try:
            path.write_text(content + "\n")
        except OSError as error:
            raise BenchFailure(f"cannot write {path}: {error.strerror}") from error


def expect_writable(option: str, path: Path, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Refuse, before anything is measured, a file that could not be written afterwards.

    Args:
        option: that names the file.
        path: of the file.
        suffixes: that it may have.

    Raises:
        Impossible: the name says nothing about its format, or there is no such folder.
    """
    if path.suffix not in suffixes:
        raise Impossible(f"{option} is {path}; expected a name ending in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise Impossible(
            f"{option} is {path}, and there is no folder {path.parent}; expected one that exists: "
            "make it first"
        )
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise Impossible(f"{option} is {path}, which cannot be written; name another file")


def _heading(report: Report) -> str:
    machine = " · ".join(f"{name} {value}" for name, value in report.machine.items())
    return f"{report.title}\nmodel {report.model} · {machine}\n{report.command}"


def _aligned(table: Table) -> str:
    cells = [table.columns, *(tuple(map(shown, row)) for row in table.rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.columns))]
    return "\n".join(_line(row, widths) for row in cells)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    """The first column is words, the others are numbers."""
    padded = [row[0].ljust(widths[0])]
    padded += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
    return "  ".join(padded).rstrip()


def _piped(table: Table) -> list[str]:
    rule = "|".join(["---", *["---:"] * (len(table.columns) - 1)])
    rows = [" | ".join(map(shown, row)) for row in table.rows]
    return [f"| {' | '.join(table.columns)} |", f"|{rule}|", *(f"| {row} |" for row in rows)]


def shown(cell: Cell) -> str:
    """A number with as many digits as carry meaning."""
    if cell is None:
        return "-"
    if not isinstance(cell, float):
        return f"{cell:,}" if isinstance(cell, int) else cell
    digits = 0 if abs(cell) >= 1000 else 1 if abs(cell) >= 100 else 2 if abs(cell) >= 1 else 3
    return f"{cell:,.{digits}f}"
