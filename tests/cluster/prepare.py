"""From nothing to a cluster that can run the project: what does not depend runs side by side."""

import concurrent.futures
from collections.abc import Callable

from tests.cluster import binaries, debian, delivery, environment, images, node, progress
from tests.cluster.cluster import Cluster


def cluster(wanted: Cluster) -> None:
    """Have the cluster; one that was not made here is taken as it is."""
    if wanted.place is None:
        return
    debian.require_root()
    debian.install()
    binaries.build()
    node.up(wanted.place)


def deliver(wanted: Cluster) -> None:
    """Have the cluster, with the images where its nodes find them."""
    if wanted.place is not None:
        debian.require_root()
        debian.install()
        _together({"images": images.build, "cluster": lambda: cluster(wanted)})
    delivery.references(wanted.place)


def everything(wanted: Cluster) -> None:
    """The Python environment, the cluster and the images."""
    if wanted.place is not None:
        debian.require_root()
        debian.install()
    _together({"environment": environment.make, "cluster": lambda: deliver(wanted)})


def _together(steps: dict[str, Callable[[], None]]) -> None:
    """Run the steps at the same time. A failure is told at once and raised at the end."""
    failures = []
    with concurrent.futures.ThreadPoolExecutor(len(steps)) as pool:
        running = {pool.submit(step): name for name, step in steps.items()}
        for done in concurrent.futures.as_completed(running):
            if error := done.exception():
                progress.say(running[done], "failed; the other steps go on")
                failures.append(error)
    if failures:
        raise failures[0]
