"""A real control plane whose nodes and pods are pretended by kwok: for thousands of pods at once.

API server, controllers, scheduler and etcd are those of the test cluster, with a name, a folder and
a network of their own beside it. Pods get addresses that all lead to this machine, so that one
server can answer for every one of them.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster import binaries, certificates, components, network, places, processes, progress
from tests.cluster.network import NODE_IP
from tests.cluster.places import Place

MODULES = ("etcd", "kubernetes", "kwok")
NUM_NODES = 12  # of 254 pods each
START_S = 90.0


@contextmanager
def started() -> Iterator[Place]:
    """Build what is missing, and start it anew for as long as the context lasts.

    Raises:
        StepFailed: another process has started it, and still uses it.
    """
    binaries.build(MODULES)
    found = places.pretended()
    with found.locked(wait=False) as free:
        if not free:
            raise progress.StepFailed(f"{found.name} is in use; wait for its benchmark to end")
        clear(found)
        try:
            with progress.step("control plane", "starting", "about 10 s"):
                _start(found)
            yield found
        finally:
            clear(found)


def clear(found: Place) -> None:
    """End what is left of one; binaries stay in the cache."""
    processes.stop(found, processes.recorded(found), patience_s=0)
    network.delete(found)
    shutil.rmtree(found.state, ignore_errors=True)


def kubectl(of: Place, *arguments: str, input: str = "") -> str:
    """Run kubectl there and return what it printed."""
    return progress.output(_kubectl(of, *arguments), input=input)


def _start(at: Place) -> None:
    at.run.mkdir(parents=True)
    at.owner.write_text(f"{places.CHECKOUT}\n")
    network.create(at)
    route = ["route", "add", "local", components.POD_IPS, "dev", "lo"]
    progress.output(["ip", "-n", at.name, *route])
    certificates.create(at)
    commands = {
        "etcd": components.etcd(at.run),
        "apiserver": components.api_server(at.run),
        "controllers": components.controllers(at.run),
        "scheduler": [
            *components.scheduler(at.run),
            "--kube-api-qps=300",
            "--kube-api-burst=600",
        ],
        "kwok": _kwok(at.run),
    }
    for name, command in commands.items():
        processes.start(at, name, command)
        if name == "apiserver":
            _await(at, "get", "--raw", "/readyz")
    kubectl(at, "apply", "-f", "-", input=json.dumps(_list(map(_node, range(NUM_NODES)))))
    ready = ("wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")
    kubectl(at, *ready)
    _await(at, "get", "serviceaccount", "default")


def _kwok(run: Path) -> list[object]:
    stages = run / "kwok.yaml"
    stages.write_text("\n---\n".join(map(json.dumps, (_NODE_READY, _POD_READY, _POD_GONE))))
    return [
        binaries.program("kwok"),
        f"--kubeconfig={run}/admin.kubeconfig",
        f"--config={stages}",
        "--manage-all-nodes=true",
        f"--node-ip={NODE_IP}",
        "--node-lease-duration-seconds=40",  # renewed at a quarter of it
    ]


def _await(at: Place, *arguments: str) -> None:
    deadline_s = time.monotonic() + START_S
    while subprocess.run(_kubectl(at, *arguments), capture_output=True, check=False).returncode:
        dead = [name for name, each in processes.recorded(at).items() if not each.alive]
        if dead or time.monotonic() > deadline_s:
            blamed = dead[0] if dead else "apiserver"
            lines = processes.log_of(at, blamed).read_text(errors="replace").splitlines()[-25:]
            raise progress.StepFailed("\n".join([f"{blamed} did not start:", *lines]))
        time.sleep(0.2)


def _kubectl(at: Place, *arguments: str) -> list[str]:
    return network.command(
        at, [binaries.program("kubectl"), f"--kubeconfig={at.kubeconfig}", *arguments]
    )


def _list(items: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "List", "items": list(items)}


def _node(number: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"pretended-{number}"},
        "spec": {"podCIDR": f"10.244.{number}.0/24", "podCIDRs": [f"10.244.{number}.0/24"]},
    }


def _stage(name: str, kind: str, rules: list[dict[str, Any]], then: dict[str, Any]) -> Any:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": rules},
            "next": then,
        },
    }


def _rule(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}


_NOT_READY = _rule('.status.conditions.[] | select( .type == "Ready" ) | .status', "NotIn", "True")
_NODE_READY = _stage(
    "node-ready",
    "Node",
    [_NOT_READY],
    {
        "statusTemplate": """
conditions:
- {type: Ready, status: "True", reason: Pretended, message: kwok plays this node,
   lastHeartbeatTime: {{ Now | Quote }}, lastTransitionTime: {{ Now | Quote }}}
addresses:
- {type: InternalIP, address: {{ NodeIP | Quote }}}
allocatable: {cpu: "1000", memory: 4Ti, pods: "250"}
capacity: {cpu: "1000", memory: 4Ti, pods: "250"}
"""
    },
)
_POD_READY = _stage(
    "pod-ready",
    "Pod",
    [
        _rule(".metadata.deletionTimestamp", "DoesNotExist"),
        _rule(".status.phase", "In", "Pending"),
        _NOT_READY,
    ],
    {
        "statusTemplate": """
phase: Running
startTime: {{ Now | Quote }}
conditions:
- {type: Initialized, status: "True", lastTransitionTime: {{ Now | Quote }}}
- {type: Ready, status: "True", lastTransitionTime: {{ Now | Quote }}}
- {type: ContainersReady, status: "True", lastTransitionTime: {{ Now | Quote }}}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: pretended
  ready: true
  started: true
  restartCount: 0
  state: {running: {startedAt: {{ Now | Quote }}}}
{{ end }}
{{ $pod := .metadata }}
{{ $ips := PodIPsWith .spec.nodeName false $pod.uid $pod.name $pod.namespace }}
{{ with $ips }}
podIP: {{ index . 0 | Quote }}
podIPs:
{{ range . }}
- ip: {{ . | Quote }}
{{ end }}
{{ end }}
"""
    },
)
_POD_GONE = _stage(
    "pod-gone", "Pod", [_rule(".metadata.deletionTimestamp", "Exists")], {"delete": True}
)
