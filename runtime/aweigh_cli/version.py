"""`aweigh version`."""

from importlib import metadata

import typer

from aweigh_cli.failures import CommandFailure


def show(asked: bool) -> None:
    """The flag --version: print it and end."""
    if asked:
        version()
        raise typer.Exit


def version() -> None:
    """Print the version."""
    try:
        typer.echo(metadata.version("aweigh"))
    except metadata.PackageNotFoundError as error:
        raise CommandFailure(
            "the version of aweigh is unknown: the package is on the path but not installed; "
            "install the wheel, or run `make env` in a checkout"
        ) from error
