"""Entry point of `aweigh` and `kubectl aweigh`: how a command fails, and how it ends early.

Nothing heavy is imported here: a pod that is deleted in its first second must go at once.
"""

import os
import signal
import sys
from pathlib import Path


def main() -> None:
    """Run the command that the arguments name."""
    if os.getpid() == 1:
        # The kernel drops signals to a container's first process that has no handler for them. The
        # server takes over once it runs.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

    import typer

    from aweigh_cli.commands import app
    from aweigh_cli.failures import CommandFailure

    try:
        app(prog_name=_program(sys.argv[0]))
    except CommandFailure as failure:
        typer.echo(f"error: {failure}", err=True)
        sys.exit(failure.exit_code)


def _program(executable: str) -> str:
    """kubectl runs `kubectl-aweigh` for `kubectl aweigh`: help speaks as the user typed."""
    name = Path(executable).name
    return "kubectl aweigh" if name.startswith("kubectl-aweigh") else "aweigh"
