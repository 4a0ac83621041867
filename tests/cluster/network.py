"""A network of a cluster's own: its pods, Services and firewall rules never meet the machine's."""

import contextlib
import ctypes
import os
from collections.abc import Iterator, Sequence

from tests.cluster import progress
from tests.cluster.places import Place

NODE_IP = "10.44.0.1"
CLONE_NEWNET = 0x40000000
# Open for as long as the process lives: the way back, and the way out for builds.
_OUTSIDE = os.open("/proc/self/ns/net", os.O_RDONLY)


def create(place: Place) -> None:
    """Make the network: loopback, the node's address on a bridge, and nothing that leaves it."""
    progress.output(["ip", "netns", "add", place.name])
    ip = ["ip", "-n", place.name]
    progress.output([*ip, "link", "set", "lo", "up"])
    progress.output([*ip, "link", "add", "node0", "type", "bridge"])
    progress.output([*ip, "addr", "add", f"{NODE_IP}/24", "dev", "node0"])
    progress.output([*ip, "link", "set", "node0", "up"])
    # Processes choose their address by the default route; nobody answers at its gateway.
    progress.output([*ip, "route", "add", "default", "via", "10.44.0.254", "dev", "node0"])
    progress.output(command(place, ["sysctl", "-qw", "net.ipv4.ip_forward=1"]))


def delete(place: Place) -> None:
    """Remove the network; processes that still are in it keep it until they end."""
    if place.network.exists():
        progress.output(["ip", "netns", "delete", place.name])


def command(place: Place, words: Sequence[object]) -> list[str]:
    """A command as it runs inside the network. `ip netns exec` would hide the cgroups."""
    return ["nsenter", f"--net={place.network}", "--", *map(str, words)]


def enter(place: Place) -> None:
    """Move this thread, and all that it starts from now on, into the network."""
    target = os.open(place.network, os.O_RDONLY)
    try:
        _join(target)
    finally:
        os.close(target)


@contextlib.contextmanager
def outside() -> Iterator[None]:
    """Be in the network that the process started in, where the package registries are."""
    inside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _join(_OUTSIDE)
        try:
            yield
        finally:
            _join(inside)
    finally:
        os.close(inside)


def _join(namespace: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(namespace, CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"cannot join a network namespace: {os.strerror(error)}")
