"""Runs the server in this process, and shows how it starts."""

from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

from aweigh_cli.failures import CommandFailure
from aweigh_cli.progress import start_display
from aweigh_runtime.config import Config
from aweigh_runtime.failures import StartFailure, leave_word

SERVING_NEEDS = ("aiohttp", "msgspec", "tokenizers", "torch")


def launch(configure: Callable[[], Config], termination_log: Path | None) -> int:
    """Serve until told to stop; returns the exit code."""
    _expect_installed()
    try:
        config = configure()
    except StartFailure as failure:
        raise refused(failure, termination_log) from failure

    from aweigh_runtime.server.main import serve

    with closing(start_display()) as display:
        return serve(
            config,
            on_progress=display.advance,
            on_ready=lambda url: display.ready(url, config.model_name),
        )


def refused(failure: StartFailure, termination_log: Path | None) -> CommandFailure:
    """How the command ends, once the pod's last word is left."""
    leave_word(failure.termination(), termination_log)
    return CommandFailure(str(failure), failure.exit_code)


def _expect_installed() -> None:
    """The extra `cli` alone brings this command, but not what it runs."""
    missing = [name for name in SERVING_NEEDS if find_spec(name) is None]
    if missing:
        raise CommandFailure(
            f"serving needs {', '.join(missing)}, not installed here; expected the extra "
            "`runtime`: install aweigh[runtime]"
        )
