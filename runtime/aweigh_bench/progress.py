"""How far a run is: a bar in a terminal, a line now and then elsewhere. All on standard error."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LINE_EVERY_S = 10.0


class Advance(Protocol):
    """Called as work is done."""

    def __call__(self, note: str = "") -> None:
        """One more piece."""
        ...


@contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """Show `total` pieces of work."""
    console = Console(stderr=True)
    if console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task(what, total=total, note="")
            yield lambda note="": bar.update(task, advance=1, note=note)
    else:
        yield _Lines(what, total)


class _Lines:
    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._next_s = time.monotonic() + LINE_EVERY_S

    def __call__(self, note: str = "") -> None:
        self._done += 1
        if time.monotonic() >= self._next_s or self._done == self._total:
            self._next_s = time.monotonic() + LINE_EVERY_S
            line = f"{self._what}: {self._done} of {self._total} {note}".rstrip()
            sys.stderr.write(f"{line}\n")


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
    )
