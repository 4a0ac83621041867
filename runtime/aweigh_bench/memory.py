"""`aweigh bench memory`: what a model takes, at rest and under load."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aweigh_bench import machine
from aweigh_bench.own_server import OwnServer
from aweigh_bench.report import Cell, Report, Table
from aweigh_bench.subject import Setting, model_files, subject

MEBI = 1 << 20
PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    setting: Setting
    concurrency: int = 32
    input_tokens: int = 256
    output_tokens: int = 64
    command: str = "aweigh bench memory"


@dataclass(frozen=True, slots=True)
class Usage:
    """Memory of a server's processes, in bytes."""

    resident: dict[str, int]  # by process, now
    peak: dict[str, int]
    gpu: int | None  # None: no GPU, or nothing of it is this server's


async def run(options: Options) -> Report:
    """Look once when the server is ready, and again after a load."""
    length = options.input_tokens
    async with subject(options.setting) as served:
        before = usage(served.own)
        await served.random(
            2 * options.concurrency, (length, length), options.output_tokens, options.concurrency
        )
        after = usage(served.own)
        state = await served.own.state()
    return _report(options, state, before, after)


def usage(server: OwnServer) -> Usage:
    """What the kernel and the driver say about a server and its children."""
    processes = _family(server.pid)
    resident: dict[str, int] = {}
    peak: dict[str, int] = {}
    for pid in processes:
        name, status = _name(pid), _status(pid)
        resident[name] = resident.get(name, 0) + status.get("VmRSS", 0)
        peak[name] = peak.get(name, 0) + status.get("VmHWM", 0)
    return Usage(resident, peak, _gpu_bytes(processes))


def _report(options: Options, state: dict[str, Any], before: Usage, after: Usage) -> Report:
    load = f"{options.concurrency} requests at once"
    processes: list[tuple[Cell, ...]] = [
        (name, before.resident.get(name, 0) / MEBI, bytes_ / MEBI, after.peak[name] / MEBI)
        for name, bytes_ in after.resident.items()
    ]
    if after.gpu is not None:
        processes.append(("GPU", (before.gpu or 0) / MEBI, after.gpu / MEBI, None))
    columns = ("process", "ready", f"after {load}", "peak")
    parts = _parts(options, state)
    return Report(
        title="Memory",
        command=options.command,
        model=str(options.setting.model),
        machine=machine.describe(),
        tables=[
            Table("What the model takes", ("part", "value"), list(parts.items())),
            Table("Resident memory in MiB", columns, processes),
        ],
        notes=["Peak: the most that each process has held since its start."],
        figures={"parts": parts, "peak_bytes": after.peak, "gpu_bytes": after.gpu},
    )


def _parts(options: Options, state: dict[str, Any]) -> dict[str, Cell]:
    from aweigh_runtime.model import footprint
    from aweigh_runtime.model.architectures import read_config

    config = read_config(model_files(options.setting))
    item_bytes = footprint.item_bytes(state["model"]["dtype"], config)
    per_token = footprint.bytes_per_token(config, item_bytes)
    parts: dict[str, Cell] = {
        "Number format": state["model"]["dtype"],
        "Weights (MiB)": footprint.weight_bytes(config, item_bytes) / MEBI,
        "KV per token (bytes)": per_token,
    }
    capacity = state.get("kv_tokens", {}).get("capacity")
    if capacity is not None:
        parts |= {"KV tokens": capacity, "KV memory (MiB)": capacity * per_token / MEBI}
    return parts


def _family(pid: int) -> list[int]:
    """A process and all that come from it."""
    found = [pid]
    for parent in found:
        for task in (PROC / str(parent) / "task").glob("*/children"):
            found += map(int, _read(task).split())
    return found


def _name(pid: int) -> str:
    """The module that a process runs: `python -m package.part.module` is `part.module`."""
    words = _read(PROC / str(pid) / "cmdline").split("\0")
    if "-m" in words[:-1]:
        return words[words.index("-m") + 1].partition(".")[2]
    return "server"


def _status(pid: int) -> dict[str, int]:
    lines = (line.split() for line in _read(PROC / str(pid) / "status").splitlines())
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines if line[-1] == "kB"}


def _gpu_bytes(processes: list[int]) -> int | None:
    rows = machine.nvidia_smi("--query-compute-apps=pid,used_memory").splitlines()
    own = [row.split(",") for row in rows if row.split(",")[0].strip() in map(str, processes)]
    sizes = [int(cells[1]) * MEBI for cells in own if cells[1].strip().isdigit()]
    return sum(sizes) if sizes else None


def _read(path: Path) -> str:
    """A process may end while it is looked at."""
    try:
        return path.read_text()
    except OSError:
        return ""
