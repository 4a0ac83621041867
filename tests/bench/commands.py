"""Runs `aweigh bench` in this process: one of its own would spend most of its time on imports."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from typer.testing import CliRunner

from aweigh_cli.commands import app
from aweigh_cli.failures import CommandFailure


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict[str, Any]:
        """What --output=json printed."""
        assert self.code == 0, self.stderr
        report: dict[str, Any] = json.loads(self.stdout)
        return report

    @property
    def figures(self) -> dict[str, Any]:
        figures: dict[str, Any] = self.report["figures"]
        return figures

    def rows(self, table: int = 0) -> list[dict[str, Any]]:
        """A table's rows by column."""
        found = self.report["tables"][table]
        return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]

    def bars(self) -> dict[str, bool | None]:
        """Whether each bar was met; None: undecided."""
        return {bar["what"]: bar["met"] for bar in self.report["bars"]}


async def bench(*given: str, **variables: str) -> Done:
    """The command in a thread, beside the servers of a test."""
    return await asyncio.to_thread(_invoke, given, variables)


def _invoke(given: tuple[str, ...], variables: dict[str, str]) -> Done:
    result = CliRunner().invoke(app, ["bench", *given], env=variables)
    if isinstance(result.exception, CommandFailure):
        return Done(result.exception.exit_code, result.stdout, f"error: {result.exception}\n")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)
