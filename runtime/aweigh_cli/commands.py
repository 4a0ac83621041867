"""Which commands there are.

Modules of commands import what is heavy when they run, never when they are imported: help and
completion must come at once.
"""

from typing import Annotated

import typer

from aweigh_cli import (
    chat,
    distill,
    fetch,
    local,
    plan,
    quantize,
    serve,
    top,
    upgrade,
    version,
    why,
)
from aweigh_cli.arguments import Command
from aweigh_cli.bench.commands import app as bench

app = typer.Typer(
    help="Serve large language models, on this machine and on Kubernetes.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=serve.ServeCommand)(serve.serve)
for command in (
    local.local,
    chat.chat,
    plan.plan,
    quantize.quantize,
    distill.distill,
    fetch.fetch,
    top.top,
    why.why,
    upgrade.upgrade,
    version.version,
):
    app.command(cls=Command)(command)
app.add_typer(bench, name="bench")


@app.callback()
def options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", help="As `aweigh version`.", callback=version.show, is_eager=True
        ),
    ] = False,
) -> None:
    """Serve large language models, on this machine and on Kubernetes."""
