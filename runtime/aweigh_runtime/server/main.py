"""The API process: starts the engine, serves until told to stop, and says why when it cannot."""

import asyncio
import logging
import sys
from collections.abc import Callable

from aweigh_api.state import Loading
from aweigh_api.termination import ExitCode, Termination
from aweigh_http import logs
from aweigh_runtime.config import Config
from aweigh_runtime.engine.client import EngineClient, EngineStopped
from aweigh_runtime.failures import StartFailure, internal_error, leave_word
from aweigh_runtime.server import lifetime, tracing
from aweigh_runtime.server.allocator import give_memory_back

_log = logging.getLogger("aweigh.server")


def serve(
    config: Config,
    on_progress: Callable[[Loading], None] | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> int:
    """Serve one model; returns the exit code.

    Args:
        config: all settings.
        on_progress: called with every report of how far loading has come.
        on_ready: called once with the base URL of the API.
    """
    give_memory_back()
    logs.configure()
    tracing.configure()
    try:
        asyncio.run(_serve(config, on_progress or _ignore, on_ready or _ignore))
    except StartFailure as failure:
        return _report(config, failure.exit_code, failure.termination())
    except EngineStopped as stopped:
        return _report(config, stopped.exit_code, stopped.termination)
    except Exception as error:  # our bug
        _log.exception("the server failed")
        bug = internal_error(f"the server failed: {type(error).__name__}: {error}")
        return _report(config, ExitCode.BUG, bug)
    return ExitCode.DRAINED


async def _serve(
    config: Config, on_progress: Callable[[Loading], None], on_ready: Callable[[str], None]
) -> None:
    engine = await EngineClient.start(config, on_progress)
    try:
        await lifetime.run(config, engine, on_ready)
    finally:
        await engine.close()


def _report(config: Config, exit_code: int, termination: Termination) -> int:
    """The last word: one line for people, one for the pod's status."""
    sys.stderr.write(f"error: {termination.message}\n")
    leave_word(termination, config.termination_log)
    return exit_code


def _ignore(_: object) -> None:
    """Nobody wants to know."""
