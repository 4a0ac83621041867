"""Starts the cluster and ends it. A life that was cut short leaves nothing that the next one meets.

Containers, processes, mounts, control groups and the network are found by what only this cluster
uses: its records, its sockets' folder and its name.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster import (
    binaries,
    certificates,
    components,
    control_plane,
    keep,
    machine,
    network,
    pause,
    places,
    processes,
    progress,
)
from tests.cluster.places import Place

START_S = 90.0
CONTAINERD_S = 10.0
GPUS = "8"  # pretended, so that the scheduler places pods that ask for some
FIRST = ("etcd", "registry", "containerd", "apiserver")
CLUSTER_DNS = {
    "apiVersion": "v1",
    "kind": "List",
    "items": [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {
                "clusterIP": components.DNS_IP,
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP"},
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
                ],
            },
        },
        # CoreDNS runs on the node itself, so its Service has no selector.
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns",
                "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": "kube-dns"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [network.NODE_IP]}],
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ],
        },
    ],
}


def up(place: Place) -> None:
    """Have a healthy cluster: keep the one that runs, or clear away what is left and start one."""
    with place.locked():
        if healthy(place):
            return
        _reap()
        clear(place)
        with progress.step("cluster", "starting", "about 8 s"):
            _start(place)


def down(place: Place) -> None:
    """End the cluster, and what a benchmark left; pulled images stay for the next one."""
    with place.locked():
        clear(place)
    with places.pretended().locked(wait=False) as free:
        if free:
            control_plane.clear(places.pretended())


def healthy(place: Place) -> bool:
    """Whether the cluster answers and was started from the present files."""
    marker = place.run / "started"
    return marker.exists() and marker.read_text() == _fingerprint() and answers(place)


def answers(place: Place) -> bool:
    """Whether the cluster was started whole, from whatever files, still runs and answers."""
    return (place.run / "started").exists() and _runs(place) and _ready(place)


def _fingerprint() -> str:
    """Changes with the programs and with the way in which they are started."""
    folder = Path(__file__).parent
    sources = [folder / f"{name}.py" for name in ("certificates", "components", "network")]
    return keep.digest(sources, *(str(binaries.program(name)) for name in binaries.PROGRAMS))


def _start(place: Place) -> None:
    place.state.mkdir(parents=True, exist_ok=True)
    place.owner.write_text(f"{places.CHECKOUT}\n")
    place.run.mkdir()
    place.sockets.mkdir(exist_ok=True)
    network.create(place)
    certificates.create(place)
    components.configure(place)
    machine.create_control_groups(place)

    commands = components.commands(place)
    for name in FIRST:
        processes.start(place, name, commands[name])
    _await(place, "containerd", lambda: _answers(_ctr(place, "version")), CONTAINERD_S)
    progress.output(_ctr(place, "images", "import", str(pause.archive())))
    _await(place, "apiserver", lambda: _ready(place))
    for name in commands.keys() - set(FIRST):
        processes.start(place, name, commands[name])

    _await(place, "kubelet", lambda: _answers(_kubectl(place, "get", "node", "node1")))
    progress.output(_kubectl(place, "apply", "-f", "-"), input=json.dumps(CLUSTER_DNS))
    progress.output(_kubectl(place, "wait", "--for=condition=Ready", "node/node1", "--timeout=60s"))
    gpus = json.dumps({kind: {"nvidia.com/gpu": GPUS} for kind in ("capacity", "allocatable")})
    patch = ["patch", "node", "node1", "--subresource=status", "--type=merge"]
    progress.output(_kubectl(place, *patch, "-p", f'{{"status": {gpus}}}'))
    # Pods are refused before their ServiceAccount exists.
    account = _kubectl(place, "get", "serviceaccount", "default")
    _await(place, "controllers", lambda: _answers(account))
    (place.run / "started").write_text(_fingerprint())


def clear(place: Place) -> None:
    """Remove a cluster, whole or in pieces, but for the images that it pulled."""
    others = processes.recorded(place).keys() - {"containerd"}
    processes.stop(place, others, patience_s=0)
    processes.kill_all(machine.contained(place))
    if not _containers_removed(place):
        shutil.rmtree(place.images, ignore_errors=True)
    processes.stop(place, ["containerd"])
    processes.kill_all(processes.mentioning(components.containerd_socket(place)))
    machine.unmount(place.state, place.sockets)
    network.delete(place)
    machine.remove_control_groups(place)
    machine.remove_stray_files(place)
    shutil.rmtree(place.run, ignore_errors=True)
    shutil.rmtree(place.sockets, ignore_errors=True)


def clean(place: Place) -> None:
    """Remove the cache, with this cluster; refused while another checkout's cluster runs."""
    for other in places.others():
        if _runs(other):
            raise progress.StepFailed(
                f"{places.cache()} is in use by the cluster of {other.owner.read_text().strip()}. "
                "Run `make cluster-down` there first."
            )
    _reap()
    down(place)
    machine.unmount(places.cache())
    shutil.rmtree(places.cache())


def _reap() -> None:
    """Clear clusters of other checkouts that nobody can use any more."""
    for place in places.others():
        with place.locked(wait=False) as free:
            if not free:
                continue
            if not _owned(place):
                progress.say("cluster", f"removing {place.name}: its checkout is gone")
                clear(place)
                shutil.rmtree(place.state, ignore_errors=True)
                for lock in place.state.parent.glob(f"{place.name}.*lock"):
                    lock.unlink(missing_ok=True)
            elif place.run.exists() and not _runs(place):
                progress.say("cluster", f"clearing {place.name}: its processes have died")
                clear(place)


def _owned(place: Place) -> bool:
    if not place.owner.exists():
        return False
    return (Path(place.owner.read_text().strip()) / "tests" / "cluster").is_dir()


def _runs(place: Place) -> bool:
    records = processes.recorded(place)
    return bool(records) and all(record.alive for record in records.values())


def _ready(place: Place) -> bool:
    return _answers(_kubectl(place, "get", "--raw", "/readyz", "--request-timeout=5s"))


def _answers(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _await(
    place: Place, name: str, predicate: Callable[[], bool], timeout_s: float = START_S
) -> None:
    """Wait for what a process has to do; if it ends or takes too long, raise with its log's end."""
    deadline_s = time.monotonic() + timeout_s
    while not predicate():
        dead = [key for key, record in processes.recorded(place).items() if not record.alive]
        if not dead and time.monotonic() < deadline_s:
            time.sleep(0.1)
            continue
        blamed = dead[0] if dead else name
        lines = processes.log_of(place, blamed).read_text(errors="replace").splitlines()[-25:]
        what = "ended" if dead else f"was not ready after {timeout_s:.0f} s"
        raise progress.StepFailed("\n".join([f"{blamed} {what}; it printed last:", *lines]))


def _kubectl(place: Place, *arguments: str) -> list[str]:
    kubectl = [binaries.program("kubectl"), f"--kubeconfig={place.kubeconfig}", *arguments]
    return network.command(place, kubectl)


def _ctr(place: Place, *arguments: str) -> list[str]:
    return [
        "ctr",
        "--address",
        str(components.containerd_socket(place)),
        "-n",
        "k8s.io",
        *arguments,
    ]


def _containers_removed(place: Place) -> bool:
    """Make containerd forget its containers, starting it for that if it has died."""
    if not (place.run / "containerd.toml").exists():
        return True  # it has not run since the last clearing
    record = processes.recorded(place).get("containerd")
    try:
        if record is None or not record.alive:
            if not place.network.exists():  # the machine was started anew
                network.create(place)
            place.sockets.mkdir(exist_ok=True)
            processes.start(place, "containerd", components.commands(place)["containerd"])
            _await(place, "containerd", lambda: _answers(_ctr(place, "version")), CONTAINERD_S)
        return _emptied(place)
    except progress.StepFailed:
        return False


def _emptied(place: Place) -> bool:
    """Remove tasks, then containers. containerd itself removes tasks that ended, so again."""
    deadline_s = time.monotonic() + CONTAINERD_S
    while time.monotonic() < deadline_s:
        for task in progress.output(_ctr(place, "tasks", "list", "--quiet")).split():
            _answers(_ctr(place, "tasks", "delete", "--force", task))
        containers = progress.output(_ctr(place, "containers", "list", "--quiet")).split()
        if not containers:
            return True
        _answers(_ctr(place, "containers", "delete", *containers))
    return False
