"""`aweigh bench memory`: what a model takes, at rest and under load."""

import asyncio
from dataclasses import dataclass, replace
from typing import Any

from aweigh_bench import machine, processes
from aweigh_bench.measures import Measures
from aweigh_bench.own_server import OwnServer
from aweigh_bench.report import Cell, Report, Table
from aweigh_bench.subject import Setting, model_files, subject

MEBI = 1 << 20
SAMPLE_S = 0.25


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
    gpu_peak: int | None = None


async def run(options: Options) -> Report:
    """Look once when the server is ready, and again and again under a load."""
    length, count = options.input_tokens, options.concurrency
    async with subject(options.setting) as served:
        before = usage(served.own)
        load = served.random(2 * count, (length, length), options.output_tokens, count)
        after = await _most(served.own, asyncio.ensure_future(load))
        state = await served.own.state()
    return _report(options, state, before, after)


def usage(server: OwnServer) -> Usage:
    """What the kernel and the driver say about a server and its children."""
    found = processes.family(server.pid)
    resident: dict[str, int] = {}
    peak: dict[str, int] = {}
    for pid in found:
        name, sizes = processes.name(pid), processes.memory(pid)
        resident[name] = resident.get(name, 0) + sizes.get("VmRSS", 0)
        peak[name] = peak.get(name, 0) + sizes.get("VmHWM", 0)
    return Usage(resident, peak, _gpu_bytes(found))


async def _most(server: OwnServer, load: "asyncio.Future[Measures]") -> Usage:
    """Usage at the end of a load; of the GPU, which has no record of its peak, the most seen."""
    seen: list[int] = []
    while not load.done():
        if (now := (await asyncio.to_thread(usage, server)).gpu) is not None:
            seen.append(now)
        await asyncio.wait([load], timeout=SAMPLE_S)
    await load
    after = usage(server)
    return after if after.gpu is None else replace(after, gpu_peak=max([*seen, after.gpu]))


def _report(options: Options, state: dict[str, Any], before: Usage, after: Usage) -> Report:
    load = f"{options.concurrency} requests at once"
    rows: list[tuple[Cell, ...]] = [
        (name, before.resident.get(name, 0) / MEBI, bytes_ / MEBI, after.peak[name] / MEBI)
        for name, bytes_ in after.resident.items()
    ]
    if after.gpu is not None and after.gpu_peak is not None:
        sizes = (before.gpu or 0, after.gpu, after.gpu_peak)
        rows.append(("GPU", *(size / MEBI for size in sizes)))
    columns = ("process", "ready", f"after {load}", "peak")
    parts = _parts(options, state)
    return Report(
        title="Memory",
        command=options.command,
        model=str(options.setting.model),
        machine=machine.describe(),
        tables=[
            Table("What the model takes", ("part", "value"), list(parts.items())),
            Table("Resident memory in MiB", columns, rows),
        ],
        notes=[
            "Peak: the most that each process has held since its start; of a GPU, the most that "
            f"nvidia-smi showed under the load, asked every {SAMPLE_S:g} s.",
            "Computed: from the model's files and the number formats that the engine reports.",
        ],
        figures={
            "parts": parts,
            "peak_bytes": after.peak,
            "gpu_bytes": after.gpu,
            "gpu_peak_bytes": after.gpu_peak,
        },
    )


def _parts(options: Options, state: dict[str, Any]) -> dict[str, Cell]:
    from aweigh_runtime.model import footprint
    from aweigh_runtime.model.described import describe

    served = state["model"]
    found = describe(model_files(options.setting), served["quantization"])
    item_bytes = footprint.item_bytes(served["dtype"], found.config)
    weights = footprint.weight_bytes(found.config, item_bytes, found.kept_bytes)
    cached = footprint.cached_bytes(served["kv_cache_dtype"], item_bytes)
    per_token = footprint.bytes_per_token(found.config, cached)
    parts: dict[str, Cell] = {
        "Number format": served["dtype"],
        "Weights": served["quantization"],
        "Number format of keys and values": served["kv_cache_dtype"],
        "Weights (MiB, computed)": weights / MEBI,
        "KV per token (bytes, computed)": per_token,
    }
    capacity = state.get("kv_tokens", {}).get("capacity")
    if capacity is not None:
        parts |= {"KV tokens": capacity, "KV memory (MiB)": capacity * per_token / MEBI}
    return parts


def _gpu_bytes(pids: list[int]) -> int | None:
    rows = machine.nvidia_smi("--query-compute-apps=pid,used_memory").splitlines()
    own = [row.split(",") for row in rows if row.split(",")[0].strip() in map(str, pids)]
    sizes = [int(cells[1]) * MEBI for cells in own if cells[1].strip().isdigit()]
    return sum(sizes) if sizes else None
