"""The installed operator's pods, and which of them works."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aweigh_api import names
from tests.cluster.cluster import OPERATOR_NAMESPACE, Cluster

NAME = "aweigh-operator"
TAKEOVER_S = 15.0


@contextmanager
def two(cluster: Cluster) -> Iterator[None]:
    """Two of them for as long as the context lasts, instead of one."""
    _scale(cluster, 2)
    try:
        yield
    finally:
        _scale(cluster, 1)


def _scale(cluster: Cluster, count: int) -> None:
    cluster.kubectl("scale", f"deployment/{NAME}", f"--replicas={count}", "-n", OPERATOR_NAMESPACE)
    wait_for(cluster, count)


def wait_for(cluster: Cluster, count: int) -> None:
    """Until so many are ready, and no others are left."""
    roll_out(cluster)
    cluster.wait(f"{count} operators", lambda: len(pods(cluster)) == count)


@contextmanager
def upgraded(cluster: Cluster) -> Iterator[None]:
    """It has other images for pods and routers, for as long as the context lasts.

    Nobody can pull them: what starts with them stays away.
    """
    parts = ("router", "runtime")
    images = [f"--set-string={name}.image={cluster.image(name)}-next" for name in parts]
    before = {pod["metadata"]["name"] for pod in pods(cluster)}
    cluster.install(*images)
    try:
        cluster.wait("the new one to work", lambda: holder(cluster) not in {"", *before})
        yield
    finally:
        cluster.install()


def roll_out(cluster: Cluster) -> None:
    """Until the Deployment is what it was told to be."""
    where = ("-n", OPERATOR_NAMESPACE)
    cluster.kubectl("rollout", "status", f"deployment/{NAME}", *where, "--timeout=90s")


def pods(cluster: Cluster) -> list[dict[str, Any]]:
    """Those that there are, ready or not."""
    return list(cluster.list("pods", OPERATOR_NAMESPACE, f"{names.LABEL_NAME}={NAME}"))


def restarts(cluster: Cluster) -> int:
    """How often their containers were started again."""
    found = (each for pod in pods(cluster) for each in pod["status"].get("containerStatuses", ()))
    return sum(each["restartCount"] for each in found)


def holder(cluster: Cluster) -> str:
    """The pod that works; empty: none."""
    lease = cluster.get("lease", NAME, OPERATOR_NAMESPACE)
    assert lease is not None
    return str(lease["spec"].get("holderIdentity", ""))


def followed_after_s(cluster: Cluster, leader: str) -> float:
    """How long it takes until another pod works."""
    began = time.monotonic()
    cluster.wait("another holder", lambda: holder(cluster) not in ("", leader), TAKEOVER_S + 5)
    return time.monotonic() - began
