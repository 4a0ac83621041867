"""Images for the cluster of the current kube context: loaded onto its nodes, or pushed."""

import functools
import os
import shutil
import subprocess
import tempfile

from tests.cluster import debian, images, places, progress

BUILDERS = ("docker", "podman")
# The start of a context's name, and how such a cluster takes an archive.
LOADERS = {
    "kind-": ["kind", "load", "image-archive", "ARCHIVE", "--name", "NAME"],
    "k3d-": ["k3d", "image", "import", "ARCHIVE", "--cluster", "NAME"],
    "minikube": ["minikube", "image", "load", "ARCHIVE"],
}
K3S = ["k3s", "ctr", "images", "import", "ARCHIVE"]


def references() -> dict[str, str]:
    """Deliver the images; return the names that pods ask for."""
    load = _loader()
    if load is not None:
        return {name: _load(name, load) for name in images.DOCKERFILES}
    registry = os.environ.get("AWEIGH_REGISTRY")
    if not registry:
        raise progress.StepFailed(
            "the cluster of the current kube context is not one of kind, k3d, minikube or k3s on "
            "this machine, so its images come from a registry. Set AWEIGH_REGISTRY to one that "
            "you may push to and that the nodes can pull from, such as registry.example.com/team."
        )
    return {name: _push(name, registry) for name in images.DOCKERFILES}


def _loader() -> list[str] | None:
    """The command that puts an archive onto the nodes of the current context, if there is one."""
    context = progress.output(["kubectl", "config", "current-context"]).strip()
    for start, command in LOADERS.items():
        if context.startswith(start) and shutil.which(command[0]):
            name = context.removeprefix(start)
            return [name if word == "NAME" else word for word in command]
    form = ["-o", "jsonpath={.items[*].status.nodeInfo.kubeletVersion}"]
    versions = progress.output(["kubectl", "get", "nodes", *form])
    return K3S if "+k3s" in versions and shutil.which("k3s") else None


def _load(name: str, load: list[str]) -> str:
    image = _build(name)
    with tempfile.TemporaryDirectory(prefix="aweigh-") as folder:
        archive = f"{folder}/{name}.tar"
        with progress.step(f"image {name}", "loading onto the nodes", "about 1 min"):
            if builder := _builder():
                progress.output([builder, "save", "--output", archive, image])
            else:
                _buildah("push", image, f"docker-archive:{archive}:{image}")
            progress.output([archive if word == "ARCHIVE" else word for word in load])
    return image


def _push(name: str, registry: str) -> str:
    """Push to a registry; `http://…` names one without TLS."""
    image = _build(name)
    host = registry.removeprefix("http://").removeprefix("https://").rstrip("/")
    target = f"{host}/aweigh-{name}:{images.tag(name)}"
    with progress.step(f"image {name}", f"pushing to {host}", "about 1 min the first time"):
        if builder := _builder():
            progress.output([builder, "tag", image, target])
            progress.output([builder, "push", target])
        else:
            verify = "false" if registry.startswith("http://") else "true"
            _buildah("push", f"--tls-verify={verify}", image, f"docker://{target}")
    return target


def _build(name: str) -> str:
    builder = _builder()
    if builder is None:
        debian.require_root()
        debian.install()
        return images.store(name)
    image = images.local(name)
    with progress.step(f"image {name}", f"building with {builder}", images.USUAL[name]):
        command = [builder, "build", "--file", images.DOCKERFILES[name], "--tag", image]
        log = places.cache() / "logs" / f"image-{name}.log"
        progress.run([*command, places.CHECKOUT], log)
    return image


@functools.cache
def _builder() -> str | None:
    """docker or podman where it works, which needs no root; else images are built by buildah."""
    return next((name for name in BUILDERS if shutil.which(name) and _works(name)), None)


def _works(builder: str) -> bool:
    return subprocess.run([builder, "info"], capture_output=True, check=False).returncode == 0


def _buildah(*words: str) -> None:
    progress.output(images.buildah(*words), env=images.ENVIRONMENT)
