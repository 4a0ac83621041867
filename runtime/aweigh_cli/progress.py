"""What is seen while a server starts: a bar in a terminal, lines of the log elsewhere."""

import json
import logging
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from aweigh_api.state import Loading

STEP_PERCENT = 10  # between two lines of the log
STEP_BYTES = 1 << 30  # the same while the size is unknown
QUESTION = "What is a Pod?"

_log = logging.getLogger("aweigh.start")


class StartDisplay(Protocol):
    """Shows how far loading has come, then where the endpoint is."""

    def advance(self, loading: Loading) -> None:
        """Show one report; reports of a stage come in order."""
        ...

    def ready(self, url: str, model: str) -> None:
        """Say that the endpoint answers."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


def start_display() -> StartDisplay:
    """The display for where standard error goes."""
    console = Console(stderr=True)
    return TerminalDisplay(console) if console.is_terminal else LogDisplay()


class LogDisplay:
    """One line of the log now and then. The server itself logs that it is ready."""

    def __init__(self) -> None:
        self._logged: dict[str, int] = {}

    def advance(self, loading: Loading) -> None:
        """Log a report that is a step further than the last."""
        step = _step(loading)
        if step > self._logged.get(loading.stage, -1):
            self._logged[loading.stage] = step
            fields = loading.model_dump(exclude_none=True, exclude={"stage"})
            _log.info(loading.stage, extra={"fields": fields})

    def ready(self, url: str, model: str) -> None:
        """Nothing to add."""

    def close(self) -> None:
        """Nothing to leave."""


class TerminalDisplay:
    """A bar for each stage, drawn from the first report on."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def advance(self, loading: Loading) -> None:
        """Move the bar of the stage."""
        if self._bar is None:
            self._bar = _bar(self._console)
            self._bar.start()
        if loading.stage not in self._tasks:
            self._tasks[loading.stage] = self._bar.add_task(loading.stage)
        task = self._tasks[loading.stage]
        self._bar.update(task, completed=loading.done_bytes, total=loading.total_bytes)

    def ready(self, url: str, model: str) -> None:
        """Say how to talk to the endpoint."""
        self.close()
        messages = [{"role": "user", "content": QUESTION}]
        body = json.dumps({"model": model, "messages": messages})
        for line in (
            f"{model} is ready at {url}. Talk to it:",
            f'  aweigh chat {url} --once "{QUESTION}"',
            f"  curl {url}/chat/completions -H 'Content-Type: application/json' -d '{body}'",
        ):
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:11}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def _step(loading: Loading) -> int:
    if loading.total_bytes:
        return 100 * loading.done_bytes // loading.total_bytes // STEP_PERCENT
    return loading.done_bytes // STEP_BYTES
