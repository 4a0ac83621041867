"""Tells a person who waits what is going on, and runs the commands that they wait for."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

STARTED_S = time.monotonic()
REMINDER_S = 30.0
LINES_ON_FAILURE = 25


class StepFailed(RuntimeError):
    """A command that a step needs has failed; the message ends with what it printed last."""


def say(subject: str, text: str) -> None:
    """Print one line with the seconds since the start."""
    sys.stdout.write(f"[{time.monotonic() - STARTED_S:4.0f} s] {subject}: {text}\n")
    sys.stdout.flush()


@contextlib.contextmanager
def step(subject: str, doing: str, usual: str) -> Iterator[None]:
    """Tell that something begins, how long it usually takes, that it goes on, and that it ended."""
    started_s = time.monotonic()
    ended = threading.Event()

    def remind() -> None:
        while not ended.wait(REMINDER_S):
            spent_s = time.monotonic() - started_s
            say(subject, f"still {doing}, {spent_s:.0f} s ({usual})")

    say(subject, f"{doing} ({usual})")
    threading.Thread(target=remind, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
    say(subject, f"done in {time.monotonic() - started_s:.1f} s")


def run(
    command: Sequence[object],
    log: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a command with its output appended to a log; raise with the log's end if it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        begun = output.tell()
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode == 0:
        return
    with log.open("rb") as output:
        output.seek(begun)
        lines = output.read().decode(errors="replace").splitlines()[-LINES_ON_FAILURE:]
    shown = " ".join(str(word) for word in command)
    raise StepFailed("\n".join([f"`{shown}` exited {done.returncode}; {log} has all:", *lines]))


def output(
    command: Sequence[object], env: Mapping[str, str] | None = None, input: str | None = None
) -> str:
    """Run a short command and return what it printed."""
    words = [str(word) for word in command]
    whole = {**os.environ, **(env or {})}
    done = subprocess.run(
        words, env=whole, input=input or "", capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise StepFailed(f"`{' '.join(words)}` exited {done.returncode}: {done.stderr.strip()}")
    return done.stdout
