"""The processes of a server, as the kernel of this machine describes them. Linux only."""

import os
from pathlib import Path

PROC = Path("/proc")
ENGINE = "engine.process"  # the process that computes
TICK_S = 1 / os.sysconf("SC_CLK_TCK")  # the kernel counts no finer
_KIBI = 1024
_CPU_FIELDS = slice(11, 13)  # user and system time, counted from behind the name


def family(pid: int) -> list[int]:
    """A process and all that come from it."""
    found = [pid]
    for parent in found:
        for task in (PROC / str(parent) / "task").glob("*/children"):
            found += map(int, _read(task).split())
    return found


def name(pid: int) -> str:
    """The module that a process runs: `python -m package.part.module` is `part.module`."""
    words = _read(PROC / str(pid) / "cmdline").split("\0")
    if "-m" in words[:-1]:
        return words[words.index("-m") + 1].partition(".")[2]
    return "server"


def memory(pid: int) -> dict[str, int]:
    """Bytes of a process by the kernel's own names: VmRSS now, VmHWM at its peak."""
    lines = (line.split() for line in _read(PROC / str(pid) / "status").splitlines())
    return {line[0].rstrip(":"): int(line[1]) * _KIBI for line in lines if line[-1] == "kB"}


def engine_cpu_s(pid: int) -> float:
    """Seconds that processors have spent on a server's engine, all threads together."""
    return sum(_cpu_s(each) for each in family(pid) if name(each) == ENGINE)


def _cpu_s(pid: int) -> float:
    fields = _read(PROC / str(pid) / "stat").rpartition(")")[2].split()
    return sum(map(int, fields[_CPU_FIELDS])) * TICK_S


def _read(path: Path) -> str:
    """A process may end while it is looked at."""
    try:
        return path.read_text()
    except OSError:
        return ""
