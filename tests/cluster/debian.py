"""The system's programs that the cluster, the images and the environment are made with."""

import os
import shutil
from pathlib import Path

from tests.cluster import places, progress

# A Debian package, and the programs or files that show that it, or its like, is there.
NEEDED = {
    "buildah": ("buildah",),
    "ca-certificates": ("/etc/ssl/certs/ca-certificates.crt",),
    "conntrack": ("conntrack",),
    "containerd": ("containerd", "ctr", "containerd-shim-runc-v2"),
    "containernetworking-plugins": ("/usr/lib/cni/bridge|/opt/cni/bin/bridge",),
    "debootstrap": ("debootstrap",),
    "gcc": ("gcc",),
    "iproute2": ("ip",),
    "iptables": ("iptables",),
    "libc6-dev": ("/usr/include/stdio.h",),
    "openssl": ("openssl",),
    "procps": ("sysctl",),
    "runc": ("runc",),
    "util-linux": ("nsenter", "unshare", "umount"),
}


def install() -> None:
    """Install what a cluster needs and this machine lacks."""
    missing = [package for package, signs in NEEDED.items() if not all(map(_there, signs))]
    if missing:
        add("the test cluster", missing)


def add(purpose: str, packages: list[str]) -> None:
    """Install packages as root on Debian; anywhere else say what to install."""
    line = f"apt-get install --yes --no-install-recommends {' '.join(packages)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise progress.StepFailed(
            f"{purpose} needs {', '.join(packages)}. On Debian or Ubuntu run `sudo {line}`; "
            "elsewhere install what they are called there."
        )
    log = places.cache() / "logs" / "packages.log"
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    with progress.step("packages", f"installing {' '.join(packages)}", "about 40 s the first time"):
        progress.run(["apt-get", "update"], log, env=quiet)
        progress.run([*line.split(), "-o", "DPkg::Lock::Timeout=300"], log, env=quiet)


def require_root() -> None:
    """A cluster needs network namespaces, mounts and control groups."""
    if os.geteuid() != 0:
        raise progress.StepFailed(
            "the test cluster runs its own kubelet, which needs root. Run the command as root, or "
            "set AWEIGH_CLUSTER=current to use the cluster of the current kube context."
        )


def _there(sign: str) -> bool:
    if not sign.startswith("/"):
        return shutil.which(sign) is not None
    return any(Path(path).exists() for path in sign.split("|"))
