"""Where something was measured: processor, GPU and versions, as every result states them."""

import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
PACKAGES = ("aweigh", "torch", "transformers", "aiohttp")


def describe() -> dict[str, str]:
    """What a reader needs to judge a number."""
    found = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "cpu": cpu()}
    if names := gpus():
        found["gpu"] = ", ".join(names)
    found["python"] = platform.python_version()
    return found | {name: version for name in PACKAGES if (version := _version(name))}


def cpu() -> str:
    """The processor's name and how many of it this process may use."""
    match = re.search(r"^model name\s*:\s*(.+)$", _text(CPUINFO), re.MULTILINE)
    name = match[1] if match else platform.machine()
    return f"{name}, {len(os.sched_getaffinity(0))} threads"


def gpus() -> list[str]:
    """Names of the GPUs that the driver shows."""
    return [line.strip() for line in nvidia_smi("--query-gpu=name").splitlines() if line.strip()]


def nvidia_smi(query: str) -> str:
    """What the driver's tool answers; nothing without a GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    command = [tool, query, "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout if done.returncode == 0 else ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
