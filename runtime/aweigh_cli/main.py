"""Entry point of `aweigh` and `kubectl aweigh`: which commands there are, and how one fails.

Modules of commands import what is heavy when they run, never when they are imported: help and
completion must come at once.
"""

import sys
from pathlib import Path

import typer

from aweigh_cli import chat, local, serve, upgrade, version
from aweigh_cli.failures import CommandFailure

app = typer.Typer(
    help="Serve large language models, on this machine and on Kubernetes.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (serve.serve, local.local, chat.chat, upgrade.upgrade, version.version):
    app.command()(command)


def main() -> None:
    """Run the command that the arguments name."""
    try:
        app(prog_name=_program(sys.argv[0]))
    except CommandFailure as failure:
        typer.echo(f"error: {failure}", err=True)
        sys.exit(failure.exit_code)


def _program(executable: str) -> str:
    """kubectl runs `kubectl-aweigh` for `kubectl aweigh`: help speaks as the user typed."""
    name = Path(executable).name
    return "kubectl aweigh" if name.startswith("kubectl-aweigh") else "aweigh"
