"""What a cluster occupies of the machine beside its own folders: control groups, mounts, files."""

import contextlib
import time
from pathlib import Path

from tests.cluster import components, progress
from tests.cluster.places import Place

CONTROL_GROUPS = Path("/sys/fs/cgroup")
REMOVAL_S = 5.0


def _control_groups(place: Place) -> list[Path]:
    """The cluster's control group: one with version 2, one for each controller with version 1."""
    if (CONTROL_GROUPS / "cgroup.controllers").exists():
        return [CONTROL_GROUPS / place.name]
    hierarchies = [path.parent for path in CONTROL_GROUPS.glob("*/cgroup.procs")]
    return [hierarchy / place.name for hierarchy in hierarchies]


def create_control_groups(place: Place) -> None:
    """The kubelet asks for its root to be there; pods of two clusters never share one."""
    for group in _control_groups(place):
        group.mkdir(exist_ok=True)
        available = group.parent / "cgroup.controllers"
        for controller in available.read_text().split() if available.exists() else []:
            with contextlib.suppress(OSError):  # one that this machine does not delegate
                (group.parent / "cgroup.subtree_control").write_text(f"+{controller}")


def contained(place: Place) -> set[int]:
    """Every process of every pod."""
    pids: set[int] = set()
    for group in _control_groups(place):
        for file in group.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                pids.update(map(int, file.read_text().split()))
    return pids


def remove_control_groups(place: Place) -> None:
    """Remove them once the processes in them, which were killed, have gone."""
    for group in _control_groups(place):
        deadline_s = time.monotonic() + REMOVAL_S
        while group.exists() and time.monotonic() < deadline_s:
            for folder in sorted(
                (path for path in group.rglob("*") if path.is_dir()), reverse=True
            ):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            try:
                group.rmdir()
            except OSError:
                time.sleep(0.05)


def unmount(*folders: Path) -> None:
    """Unmount everything below some folders, the innermost first."""
    own = tuple(f"{folder}/" for folder in folders)
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for target in sorted((path for path in mounts if path.startswith(own)), reverse=True):
        progress.output(["umount", "--lazy", target])


def remove_stray_files(place: Place) -> None:
    """The kubelet and CNI write a few files at places that cannot be chosen."""
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and components.pod_logs(place) in link.readlink().parents:
            link.unlink(missing_ok=True)
    for result in Path("/var/lib/cni/results").glob("*"):
        if f'"{place.sockets}/' in result.read_text():
            result.unlink(missing_ok=True)
