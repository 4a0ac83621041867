"""How many processors this process may use. In a container that is less than the machine has."""

import math
import os
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")


def usable_cpus(root: Path = CGROUP_ROOT) -> int:
    """The processors that we are bound to, within the container's quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _quota(root)
    return max(1, bound or 1) if quota is None else max(1, min(bound or 1, math.ceil(quota)))


def _quota(root: Path) -> float | None:
    """Processors that the control group allows: version 2, then 1; None: no limit."""
    try:
        limit, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        limit = _text(root / "cpu" / "cpu.cfs_quota_us")
        period = _text(root / "cpu" / "cpu.cfs_period_us")
    if not limit.isdigit() or not period.isdigit() or int(period) == 0:
        return None  # "max" in version 2, -1 in version 1
    return int(limit) / int(period)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
