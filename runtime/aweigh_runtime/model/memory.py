"""How much memory is left for a model. It reads counters; it allocates nothing."""

from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")
PROC_CGROUP = Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")


def available_bytes(device: torch.device) -> int:
    """Memory that can still be taken on a device; on a CPU within the container's limit."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = [meminfo_available(MEMINFO), *cgroup_available(PROC_CGROUP, CGROUP_ROOT)]
    return min(limits)


def meminfo_available(meminfo: Path) -> int:
    """MemAvailable of the machine."""
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{meminfo} has no MemAvailable; expected Linux 3.14 or newer")


def cgroup_available(proc_cgroup: Path, root: Path) -> list[int]:
    """What each limit over this process leaves, for version 2 and 1 of control groups."""
    found = []
    for line in proc_cgroup.read_text().splitlines() if proc_cgroup.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += _each_level(root, path, ("memory.max", "memory.current", ""))
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
            found += _each_level(root / "memory", path, names)
    return found


def _each_level(root: Path, path: str, names: tuple[str, str, str]) -> list[int]:
    """A limit may be set on any parent; inside a container only the root may be visible."""
    group = root / path.lstrip("/")
    levels = [group, *group.parents]
    left = [_left(level, names) for level in levels if level.is_relative_to(root)]
    return [value for value in left if value is not None]


def _left(group: Path, names: tuple[str, str, str]) -> int | None:
    limit_name, usage_name, prefix = names
    try:
        limit = (group / limit_name).read_text().strip()
        usage = int((group / usage_name).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    if limit == "max":
        return None
    # Pages of files are given back when memory gets short, a model's own file among them.
    cached = sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("inactive", "active"))
    return max(int(limit) - max(usage - cached, 0), 0)
