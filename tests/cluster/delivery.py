"""Brings the images to where a cluster's kubelets find them."""

import functools
import json

from tests.cluster import binaries, components, current, images, network, progress
from tests.cluster.places import Place


@functools.cache
def references(place: Place | None) -> dict[str, str]:
    """Have the images where pods can pull or find them; return the names to ask for."""
    if place is None:
        return current.references()
    images.build()
    images.push(place)
    for name in images.DOCKERFILES:
        _pull(place, name)
    return {name: images.reference(name) for name in images.DOCKERFILES}


def _pull(place: Place, name: str) -> None:
    """Let the kubelet pull an image before somebody waits for a pod that needs it."""
    image = images.reference(name)
    ctr = ["ctr", "--address", f"{components.containerd_socket(place)}", "-n", "k8s.io"]
    if progress.output([*ctr, "images", "list", "--quiet", f"name=={image}"]).strip():
        return
    own = f"--kubeconfig={place.kubeconfig}"
    kubectl = network.command(place, [binaries.program("kubectl"), own, "-n", "kube-system"])
    pod = f"pull-{name}"
    with progress.step(f"image {name}", "pulling", "about 40 s the first time, 3 s later"):
        progress.output([*kubectl, "delete", "pod", pod, "--ignore-not-found", "--force"])
        created = json.dumps(_puller(pod, image))
        progress.output([*kubectl, "create", "-f", "-"], input=created)
        done = ["--for=jsonpath={.status.phase}=Succeeded", "--timeout=300s"]
        progress.output([*kubectl, "wait", f"pod/{pod}", *done])
        progress.output([*kubectl, "delete", "pod", pod, "--wait=false"])


def _puller(name: str, image: str) -> dict[str, object]:
    container = {"name": "python", "image": image, "command": ["python", "--version"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }
