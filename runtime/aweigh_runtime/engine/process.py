"""The engine process: `python -m aweigh_runtime.engine.process`. Fetches, loads, then steps.

Whatever stops it is told to the API process before it ends; there is nobody else to tell.
"""

import gc
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from aweigh_api.termination import ExitCode
from aweigh_runtime.child import channel_to_parent
from aweigh_runtime.engine.assembly import build
from aweigh_runtime.engine.messages import Draft, Failed, Fetched, Progress, Start, Work
from aweigh_runtime.failures import StartFailure, internal_error
from aweigh_runtime.sources import fetch
from aweigh_runtime.sources.patience import BRIEF
from aweigh_runtime.wire import Channel

_BETWEEN_REPORTS_S = 0.2


def main() -> None:
    """Serve the parent until it closes its end."""
    channel = channel_to_parent()
    try:
        _serve(channel)
    except EOFError:
        return
    except StartFailure as failure:
        channel.send(Failed(failure.exit_code, failure.termination().to_json()))
    except Exception as error:  # our bug: the traceback goes to the log, its last line to the pod
        traceback.print_exc()
        bug = internal_error(f"the engine failed: {type(error).__name__}: {error}")
        channel.send(Failed(ExitCode.BUG, bug.to_json()))
        sys.exit(ExitCode.BUG)


def _serve(channel: Channel) -> None:
    start = msgspec.msgpack.decode(channel.receive(), type=Start)
    directory = fetch(
        start.uri,
        revision=start.revision,
        secret_dir=None if start.secret_dir is None else Path(start.secret_dir),
        cache_dir=Path(start.cache_dir),
        progress=_reporter(channel, "downloading"),
    )
    channel.send(Fetched(str(directory)))
    drafts = [_fetched(start, draft, channel) for draft in start.drafts]
    engine, ready = build(start, directory, _reporter(channel, "loading"), drafts)
    gc.collect()
    gc.freeze()  # what was loaded stays: nobody needs to look at it again
    channel.send(ready)
    while True:
        for body in channel.poll(engine.patience_s):
            engine.take(msgspec.msgpack.decode(body, type=Work))
        channel.send(engine.step())


def _fetched(start: Start, draft: Draft, channel: Channel) -> Path | StartFailure:
    """A draft model's directory, or why it is not here: the target waits for it little."""
    try:
        return fetch(
            draft.uri,
            revision=draft.revision,
            secret_dir=None if start.secret_dir is None else Path(start.secret_dir),
            cache_dir=Path(start.cache_dir),
            progress=_reporter(channel, "downloading"),
            effort=BRIEF,
        )
    except StartFailure as failure:
        return failure


def _reporter(
    channel: Channel, stage: Literal["downloading", "loading"]
) -> Callable[[int, int | None], None]:
    """Passes progress on, a few times a second, and the end of a stage always."""
    last_s = 0.0

    def report(done_bytes: int, total_bytes: int | None) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if done_bytes == total_bytes or now_s - last_s >= _BETWEEN_REPORTS_S:
            last_s = now_s
            channel.send(Progress(stage, done_bytes, total_bytes))

    return report


if __name__ == "__main__":
    main()
