"""Where things live: the checkout, the cache outside it, and what one cluster calls its own."""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def cache() -> Path:
    """The folder that outlives checkouts: binaries, images and the clusters' state."""
    if configured := os.environ.get("AWEIGH_CACHE"):
        return Path(configured).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "aweigh"


@dataclass(frozen=True, slots=True)
class Place:
    """What belongs to one cluster: no two checkouts share a name, a folder or a network."""

    name: str
    state: Path

    @property
    def run(self) -> Path:
        """What one life of the cluster writes: keys, configuration, logs, etcd's data."""
        return self.state / "run"

    @property
    def images(self) -> Path:
        """containerd's root: the pulled images stay when the cluster goes."""
        return self.state / "containerd"

    @property
    def sockets(self) -> Path:
        """Sockets and mounts; short, because a socket's path has at most 107 characters."""
        return Path("/run") / self.name

    @property
    def network(self) -> Path:
        """The network namespace that all of the cluster's processes live in."""
        return Path("/run/netns") / self.name

    @property
    def kubeconfig(self) -> Path:
        """The administrator's way in."""
        return self.run / "admin.kubeconfig"

    @property
    def owner(self) -> Path:
        """A file that names the checkout, so that another one can tell when it is gone."""
        return self.state / "checkout"

    def locked(self, wait: bool = True) -> contextlib.AbstractContextManager[bool]:
        """Hold the cluster's lock; the value tells whether it was had."""
        return lock(self.state.with_suffix(".lock"), wait)


def of(checkout: Path) -> Place:
    """The place of a checkout's cluster: a name from the checkout's path and the cache's."""
    digest = hashlib.sha256(f"{checkout}\0{cache()}".encode()).hexdigest()[:8]
    return Place(f"aweigh-{digest}", cache() / "clusters" / f"aweigh-{digest}")


def pretended() -> Place:
    """Where this checkout's control plane without nodes of its own lives."""
    own = of(CHECKOUT)
    name = f"{own.name}-pretended"
    return Place(name, own.state.with_name(name))


def others() -> list[Place]:
    """Clusters of other checkouts that have left something in the cache."""
    mine = of(CHECKOUT)
    found = (Place(path.name, path) for path in sorted(mine.state.parent.glob("aweigh-*/")))
    return [place for place in found if place not in (mine, pretended())]


@contextlib.contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock on a file; without `wait`, yield whether it was free."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
