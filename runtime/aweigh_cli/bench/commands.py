"""Which commands `aweigh bench` has."""

import typer

from aweigh_cli.arguments import Command
from aweigh_cli.bench import load, parts, servers
from aweigh_cli.bench.options import expect_installed

app = typer.Typer(
    help="Measure servers of language models.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    callback=expect_installed,
)
for command in (
    load.serve,
    servers.throughput,
    servers.latency,
    servers.prefix_caching,
    servers.speculation,
    servers.memory,
    parts.quantization,
    parts.scheduler,
    parts.scaling,
    parts.client,
):
    app.command(cls=Command)(command)
