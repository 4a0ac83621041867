"""The demo: install the operator, apply one object, ask the model that it serves a question."""

import json
import sys
import time
import urllib.request
from collections.abc import Iterator

from tests.cluster import network, prepare, progress
from tests.cluster.cluster import Cluster
from tests.cluster.places import CHECKOUT

EXAMPLE = CHECKOUT / "examples" / "helmsman.yaml"
NAME = "helmsman"
NAMESPACE = "default"
PORT = 8000
PODS = f"app.kubernetes.io/instance={NAME},app.kubernetes.io/name=aweigh-runtime"
QUESTION = "What is a Pod?"
READY_S = 120


def run(cluster: Cluster) -> None:
    """From nothing to an answer, told step by step."""
    prepare.everything(cluster)
    if cluster.place is not None:
        network.enter(cluster.place)
    with progress.step("operator", "installing with helm", "about 5 s"):
        cluster.install()
    _apply(cluster)
    _write(f"\n$ kubectl get infs\n{cluster.kubectl('get', 'infs', '-n', NAMESPACE)}\n")
    with cluster.endpoint(NAMESPACE, NAME, PORT) as url:
        # kube-proxy learns of a ready pod a moment after the API server.
        cluster.wait(f"{url} to answer", lambda: _answers(url))
        _write(f"$ curl {url}/v1/chat/completions  # {QUESTION}\n")
        _ask(url)
    _write(_next_steps(cluster))


def _apply(cluster: Cluster) -> None:
    new = cluster.get("infs", NAME, NAMESPACE) is None
    progress.say(NAME, f"kubectl apply -f {EXAMPLE.relative_to(CHECKOUT)}")
    started_s = time.monotonic()
    cluster.kubectl("apply", "-n", NAMESPACE, "-f", str(EXAMPLE))
    cluster.wait("pods created", lambda: cluster.list("pods", NAMESPACE, PODS), READY_S)
    created_s = time.monotonic() - started_s
    ready = ["--for=condition=Ready", f"infs/{NAME}", f"--timeout={READY_S}s"]
    cluster.kubectl("wait", "-n", NAMESPACE, *ready)
    ready_s = time.monotonic() - started_s
    if new:
        timings = f"apply → pods created {created_s:.1f} s, apply → Ready {ready_s:.1f} s"
        progress.say(NAME, timings)
    else:
        progress.say(NAME, "was there already, and is Ready")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _ask(url: str) -> None:
    """Stream the answer to the terminal."""
    with urllib.request.urlopen(f"{url}/v1/models", timeout=30) as response:
        model = json.load(response)["data"][0]["id"]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "stream": True,
    }
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        for piece in pieces(response):
            _write(piece)
    _write("\n")


def pieces(lines: Iterator[bytes]) -> Iterator[str]:
    """The pieces of text in a stream of server-sent events."""
    for line in lines:
        field, _, data = line.decode().strip().partition(": ")
        if field != "data" or data == "[DONE]":
            continue
        for choice in json.loads(data)["choices"]:
            yield choice["delta"].get("content") or ""


def _next_steps(cluster: Cluster) -> str:
    inside = "" if cluster.place is None else "python3 -m tests.cluster exec -- "
    steps = {
        "what the operator made": "kubectl get all -l " + PODS,
        "why it is as it is": f"kubectl describe infs {NAME}",
        "every field": "kubectl explain infs.spec --recursive",
        "two pods": f"kubectl scale infs {NAME} --replicas=2",
    }
    if cluster.place is not None:
        steps["a shell with kubectl and helm"] = "bash"
        steps["end the cluster"] = "make cluster-down"
    lines = [
        f"  {'' if command.startswith('make') else inside}{command}  # {what}"
        for what, command in steps.items()
    ]
    return "\n".join(["", "Next:", *lines, ""])


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
