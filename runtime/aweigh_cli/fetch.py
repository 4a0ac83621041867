"""`aweigh fetch`: bring models into the cache, so that a server finds them there."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from aweigh_api import names
from aweigh_cli.serve import default_cache_dir


def fetch(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="URI...",
            help="hf://ORGANISATION/MODEL[@REVISION], s3://BUCKET/PREFIX or "
            "oci://REGISTRY/REPOSITORY[:TAG|@DIGEST]; a model, and drafts for it.",
        ),
    ],
    *,
    secret_dir: Annotated[
        Path | None, typer.Option(help="Directory that holds what opens the models' sources.")
    ] = None,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Directory for downloads. (default: ~/.cache/aweigh)")
    ] = None,
    admin_port: Annotated[
        int | None,
        typer.Option(help=f"Tell on this port how far it is, as {names.ADMIN_PORT}/state does."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address of that port.")] = "127.0.0.1",
    termination_log: Annotated[
        Path | None, typer.Option(help="File for the reason of a failure.")
    ] = None,
) -> None:
    """Download models, or what is missing of them, into the directory that servers read.

    What is there already is not asked for again; a download that was broken off goes on.
    """
    from aweigh_cli.launch import refused
    from aweigh_cli.progress import start_display
    from aweigh_runtime.failures import StartFailure
    from aweigh_runtime.server.fetching import fetch_all

    try:
        with closing(start_display()) as display:
            folders = fetch_all(
                models,
                secret_dir=secret_dir,
                cache_dir=cache_dir or default_cache_dir(),
                address=None if admin_port is None else (host, admin_port),
                on_progress=display.advance,
            )
    except StartFailure as failure:
        raise refused(failure, termination_log) from failure
    for folder in folders:
        typer.echo(folder)
