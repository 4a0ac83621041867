"""Processes of a pod that runs on this machine, and what may befall them, without grace."""

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

ENGINE = "aweigh_runtime.engine.process"


def kill(pod: dict[str, Any]) -> None:
    """All of it, as the kernel ends what needs too much memory."""
    _send(pod, signal.SIGKILL, "aweigh")


def kill_engine(pod: dict[str, Any]) -> None:
    """The process of it that computes; the other one can still say so."""
    _send(pod, signal.SIGKILL, ENGINE)


def stop_engine(pod: dict[str, Any]) -> None:
    """The process of it that computes hangs; the other one goes on."""
    _send(pod, signal.SIGSTOP, ENGINE)


def stop(pod: dict[str, Any]) -> None:
    """It stands still: connections stay, and new ones are accepted by its kernel."""
    _send(pod, signal.SIGSTOP, "aweigh")


def _send(pod: dict[str, Any], number: signal.Signals, named: str) -> None:
    found = processes_of(pod["metadata"]["uid"], named)
    assert found, f"no process {named} of pod {pod['metadata']['name']}"
    for pid in found:
        with suppress(ProcessLookupError):  # it has ended with another one
            os.kill(pid, number)


def processes_of(uid: str, named: str = "aweigh") -> list[int]:
    """Processes of a pod whose command has the name, by their control group."""
    marks = (uid, uid.replace("-", "_"))
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            group, command = (folder / "cgroup").read_text(), (folder / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if any(mark in group for mark in marks) and named.encode() in command:
            found.append(int(folder.name))
    return found
