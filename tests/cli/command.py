"""Runs the real command line in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ENTRY = "from aweigh_cli.main import main; main()"
TIMEOUT_S = 60.0
_CONFIGURING = ("AWEIGH_", "OPENAI_", "HF_")


def arguments(*given: str) -> list[str]:
    """What the console script `aweigh` runs."""
    return [sys.executable, "-c", ENTRY, *given]


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without settings that would leak into the command."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_CONFIGURING)}
    return {**kept, **changes}


def aweigh(
    *given: str, stdin: str = "", env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    return subprocess.run(
        arguments(*given),
        input=stdin,
        env=env or environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def script(folder: Path, name: str, source: str) -> Path:
    """An executable Python file."""
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{source}\n")
    path.chmod(0o755)
    return path
