"""The processes of a cluster: each is recorded before it runs, and only recorded ones are killed.

A record holds the process id and the time at which the process started, so that an id that the
machine has given to somebody else is never mistaken for ours.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import network
from tests.cluster.places import Place

PATIENCE_S = 3.0  # the API server waits up to a minute for watches to end
# Nothing of the cluster runs without its record, even if whoever starts it is killed meanwhile.
RECORD_AND_BECOME = 'cat "/proc/$$/stat" > "$0.new" && mv "$0.new" "$0" && exec "$@"'


@dataclass(frozen=True, slots=True)
class Record:
    """One process as it was started."""

    pid: int
    started: str | None
    command: list[str]

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return self.started is not None and self.started == _started(self.pid)


def start(place: Place, name: str, command: Sequence[object]) -> None:
    """Start a process in the cluster's network, its output in a log of its name."""
    words = [str(word) for word in command]
    record = _folder(place) / name
    record.parent.mkdir(parents=True, exist_ok=True)
    record.with_suffix(".json").write_text(json.dumps(words))
    log = log_of(place, name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            network.command(place, ["sh", "-c", RECORD_AND_BECOME, record, *words]),
            cwd=place.run,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    while not record.exists() and child.poll() is None:
        time.sleep(0.002)
    child.returncode = child.returncode or 0  # it outlives us, and Popen would warn of it


def _folder(place: Place) -> Path:
    return place.run / "processes"


def log_of(place: Place, name: str) -> Path:
    """Where a process writes what it prints."""
    return place.run / "logs" / f"{name}.log"


def recorded(place: Place) -> dict[str, Record]:
    """All processes that were started and not yet stopped, alive or not."""
    found = sorted(path for path in _folder(place).glob("*") if not path.suffix)
    return {path.name: _read(path) for path in found}


def _read(path: Path) -> Record:
    status = path.read_text()
    command = json.loads(path.with_suffix(".json").read_text())
    return Record(int(status.split()[0]), start_time(status), command)


def stop(place: Place, names: Iterable[str], patience_s: float = PATIENCE_S) -> None:
    """Ask processes to end, kill those that do not, and forget them."""
    records = recorded(place)
    chosen = {name: records[name] for name in names if name in records}
    for record in chosen.values():
        _signal(record, signal.SIGTERM)
    deadline_s = time.monotonic() + patience_s
    while time.monotonic() < deadline_s and any(record.alive for record in chosen.values()):
        time.sleep(0.02)
    for name, record in chosen.items():
        _signal(record, signal.SIGKILL)
        (_folder(place) / name).unlink()


def restart(place: Place, name: str) -> None:
    """Stop a process and start it again with the same command."""
    command = recorded(place)[name].command
    stop(place, [name])
    start(place, name, command)


def kill_all(pids: Iterable[int]) -> None:
    """Kill processes that the caller knows to be the cluster's."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def mentioning(path: Path) -> list[int]:
    """Processes whose command line names a path: containerd's shims name the cluster's socket."""
    needle = os.fsencode(path)
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile
            continue
        if (
            Path(os.fsdecode(arguments[0])).name.startswith("containerd-shim")
            and needle in arguments
        ):
            found.append(int(folder.name))
    return found


def _signal(record: Record, number: signal.Signals) -> None:
    if record.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, number)


def _started(pid: int) -> str | None:
    """When a process started; None for one that has ended."""
    try:
        return start_time(Path(f"/proc/{pid}/stat").read_text())
    except OSError:
        return None


def start_time(status: str) -> str | None:
    """The start in the kernel's ticks since boot, from the line of /proc/PID/stat."""
    state, *rest = status.rpartition(")")[2].split()  # the name before may hold anything
    return None if state == "Z" else rest[18]
