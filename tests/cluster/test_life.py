"""A cluster comes whole or not at all, goes without a trace, and never meets another one."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import places, processes
from tests.cluster.cluster import Cluster
from tests.cluster.places import CHECKOUT, Place

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture
def checkout(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """A second checkout, as far as the cluster needs one; what it leaves behind is removed."""
    if not cluster.on_this_machine:
        pytest.skip("this is about the cluster that is made here")
    copy = tmp_path / "second"
    shutil.copytree(CHECKOUT / "tests" / "cluster", copy / "tests" / "cluster")
    shutil.copy(CHECKOUT / "tests" / "__init__.py", copy / "tests")
    yield copy
    place = places.of(copy)
    command(copy, "down")
    shutil.rmtree(place.state, ignore_errors=True)
    place.state.with_suffix(".lock").unlink(missing_ok=True)


def command(checkout: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster", *words],
        cwd=checkout, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def traces(place: Place) -> list[str]:
    """Whatever of a cluster is on the machine, the cache apart."""
    found = [str(path) for path in (place.network, place.sockets, place.run) if path.exists()]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{place.name}")]
    stray = Path("/var/lib/cni/results").glob("*")
    found += [str(path) for path in stray if place.name in path.read_text()]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if place.name in line]
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes()
            if place.name.encode() in words:
                found.append(f"process {folder.name}: {words!r}")
    return found


def test_two_checkouts_have_clusters_at_once_that_never_meet(
    cluster: Cluster, namespace: str, checkout: Path
) -> None:
    command(checkout, "up")
    kubectl = ("exec", "--", "kubectl")
    names = json.loads(command(checkout, *kubectl, "get", "namespaces", "-o", "json"))["items"]
    assert namespace not in [each["metadata"]["name"] for each in names]
    command(checkout, "down")
    assert cluster.get("namespace", namespace) is not None
    assert traces(places.of(checkout)) == []


@pytest.mark.parametrize("after_s", [0.5, 2.5])
def test_a_start_that_is_killed_half_way_leaves_nothing_in_the_way(
    checkout: Path, after_s: float
) -> None:
    place = places.of(checkout)
    start = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster", "up"],
        cwd=checkout,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(after_s)
    os.killpg(start.pid, signal.SIGKILL)
    start.wait()
    command(checkout, "up")
    assert f"{place.name}: healthy" in command(checkout, "status")
    command(checkout, "down")
    assert traces(place) == []


def test_a_cluster_whose_processes_died_is_started_anew_and_keeps_its_images(
    checkout: Path,
) -> None:
    command(checkout, "up")
    place = places.of(checkout)
    for record in processes.recorded(place).values():
        os.kill(record.pid, signal.SIGKILL)
    (place.images / "witness").touch()
    command(checkout, "up")
    assert f"{place.name}: healthy" in command(checkout, "status")
    assert (place.images / "witness").exists()


def test_a_cluster_is_removed_when_its_checkout_is_gone(
    cluster: Cluster, checkout: Path, tmp_path: Path
) -> None:
    command(checkout, "up")
    gone = places.of(checkout)
    third = checkout.rename(tmp_path / "third")
    try:
        assert gone.name in command(third, "up")
        assert traces(gone) == []
        assert not gone.state.exists()
    finally:
        command(third, "down")
        shutil.rmtree(places.of(third).state, ignore_errors=True)
        third.rename(checkout)


def test_up_on_a_healthy_cluster_keeps_every_process(cluster: Cluster) -> None:
    assert cluster.place is not None
    before = processes.recorded(cluster.place)
    command(CHECKOUT, "up")
    assert processes.recorded(cluster.place) == before
