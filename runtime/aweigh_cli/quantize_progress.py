"""How far quantizing is: a bar with the time left, or a line now and then. On standard error."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from aweigh_quantize.display import Display

LINE_EVERY_S = 10.0


@contextmanager
def display() -> Iterator["Display"]:
    """For where standard error goes."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    with _bar(console) as bar:
        yield _Bars(bar)


class _Bars:
    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task: TaskID | None = None

    def begin(self, what: str, total: int, done: int = 0) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(what, total=total, completed=done)

    def advance(self) -> None:
        assert self._task is not None
        self._bar.advance(self._task)


class _Lines:
    def __init__(self) -> None:
        self._what, self._total, self._done, self._before = "", 0, 0, 0
        self._started_s = self._next_s = time.monotonic()

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self._what, self._total, self._done, self._before = what, total, done, done
        self._started_s = time.monotonic()
        self._next_s = self._started_s + LINE_EVERY_S  # sooner it would only be a guess

    def advance(self) -> None:
        self._done += 1
        now_s = time.monotonic()
        if now_s >= self._next_s or self._done == self._total:
            self._next_s = now_s + LINE_EVERY_S
            each_s = (now_s - self._started_s) / (self._done - self._before)
            left_s = each_s * (self._total - self._done)
            line = f"{self._what}: {self._done} of {self._total}, {left_s:.0f} s left\n"
            sys.stderr.write(line)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
