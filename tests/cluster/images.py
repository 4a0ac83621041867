"""The project's images, built from its Dockerfiles without a daemon and kept in a registry.

An image's tag is the hash of what the Dockerfile names: the same content is never built twice,
and a tag that the registry has needs nothing at all.
"""

import contextlib
import functools
import os
import re
import time
from pathlib import Path

from tests.cluster import components, keep, network, places, progress
from tests.cluster.places import CHECKOUT, Place

DOCKERFILES = {
    "operator": CHECKOUT / "operator" / "Dockerfile",
    "router": CHECKOUT / "runtime" / "Dockerfile.router",
    "runtime": CHECKOUT / "runtime" / "Dockerfile",
}
USUAL = {
    "operator": "about 30 s the first time, 2 s after a change of the code",
    "router": "about 30 s the first time, 2 s after a change of the code",
    "runtime": "about 3 min the first time, 3 s after a change of the code",
}
# What Debian's own image has, made from its packages: no image registry has to be reached.
DEBIAN = "bookworm"
BASE_PACKAGES = "ca-certificates"
TAGS_KEPT = 2
RECENT_S = 3600.0
CERTIFICATES = Path("/etc/ssl/certs")


def reference(name: str) -> str:
    """The name under which pods ask for an image, made or not."""
    return f"{components.REGISTRY}/aweigh-{name}:{tag(name)}"


@functools.cache
def tag(name: str) -> str:
    """The hash of an image's inputs, as they were when this process first asked."""
    return keep.digest(inputs(name), _base_tag())


def inputs(name: str) -> list[Path]:
    """The Dockerfile, and every file and folder that it copies from the checkout."""
    dockerfile = DOCKERFILES[name]
    lines = re.findall(r"^COPY (?!--from=)(.+)$", dockerfile.read_text(), re.MULTILINE)
    copied = {source for line in lines for source in line.split()[:-1]}
    return [dockerfile, *sorted(CHECKOUT / source for source in copied)]


def build() -> None:
    """Build the images that neither the registry nor the local store has. Needs the internet."""
    with _locked():
        for name in DOCKERFILES:
            if not _pushed(name) and not _stored(local(name)):
                _build(name)


def push(place: Place) -> None:
    """Push the images that the registry lacks, from inside the cluster's network."""
    with _locked():
        for name in DOCKERFILES:
            if not _pushed(name):
                with progress.step(f"image {name}", "pushing", "about 1 min the first time"):
                    # Pods pull zstd faster than gzip, and two cores are all there may be.
                    how = ["--tls-verify=false", "--compression-format=zstd"]
                    target = f"docker://{reference(name)}"
                    command = buildah("push", *how, "--compression-level=1", local(name), target)
                    progress.run(network.command(place, command), _log(name), env=ENVIRONMENT)
                _prune_store(name)
            os.utime(_tag_file(name, tag(name)))
        removed = [_untag_old(name) for name in DOCKERFILES]
        if any(removed):
            _collect_garbage(place)


def store(name: str) -> str:
    """Have an image in the local store; return its name there."""
    with _locked():
        if not _stored(local(name)):
            _build(name)
    return local(name)


def _build(name: str) -> None:
    base = _base()
    with progress.step(f"image {name}", "building", USUAL[name]):
        _buildah_output("rm", "--all")  # what one that was killed left
        command = buildah("build", "--layers", "--pull-never", f"--build-arg=BASE={base}")
        # The machine's certificates: pip must trust what the machine trusts.
        trust = ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
        what = ["--file", str(DOCKERFILES[name]), "--tag", local(name), str(CHECKOUT)]
        with network.outside():
            progress.run([*command, *trust, *what], _log(name), env=ENVIRONMENT)


def _base() -> str:
    """A stand-in for Debian's image."""
    base = f"localhost/aweigh-base:{_base_tag()}"
    if _stored(base):
        return base
    with progress.step("base image", f"installing Debian {DEBIAN}", "about 50 s the first time"):
        with network.outside():
            root = keep.made("base", "debian", _base_tag(), _install_debian) / "root"
        container = _buildah_output("from", "scratch").strip()
        _buildah_output("add", "--quiet", container, str(root), "/")
        _buildah_output("commit", "--quiet", "--rm", container, base)
    return base


def _install_debian(into: Path) -> None:
    root = into / "root"
    # In a mount namespace of its own: killed half-way, it leaves no mounts below the cache.
    command = ["unshare", "--mount", "--", "debootstrap", "--variant=minbase"]
    include = f"--include={BASE_PACKAGES}"
    progress.run([*command, include, DEBIAN, root], places.cache() / "logs" / "base.log")
    lists = "find /var/cache/apt/archives /var/lib/apt/lists -type f -delete"
    progress.output(["chroot", root, "sh", "-c", lists])


def _base_tag() -> str:
    return keep.digest([], DEBIAN, BASE_PACKAGES)


def local(name: str) -> str:
    """An image's name in the store that it is built in."""
    return f"localhost/aweigh-{name}:{tag(name)}"


def _stored(image: str) -> bool:
    return bool(_buildah_output("images", "--quiet", "--filter", f"reference={image}"))


def _prune_store(name: str) -> None:
    """Remove older builds from the local store; layers that the newest need stay."""
    form = ["--format", "{{.CreatedAtRaw.Unix}} {{.Name}}:{{.Tag}}"]
    images = _buildah_output(
        "images", *form, "--filter", f"reference=localhost/aweigh-{name}"
    ).splitlines()
    images.sort(key=lambda line: int(line.split()[0]), reverse=True)
    for line in images[TAGS_KEPT:]:
        _buildah_output("rmi", line.split()[1])


def _pushed(name: str) -> bool:
    return _tag_file(name, tag(name)).exists()


def _tag_file(name: str, its_tag: str) -> Path:
    """What the registry writes last when an image is pushed."""
    return _tags(name) / its_tag / "current" / "link"


def _tags(name: str) -> Path:
    repositories = components.registry_content() / "docker/registry/v2/repositories"
    return repositories / f"aweigh-{name}" / "_manifests" / "tags"


def _untag_old(name: str) -> bool:
    """Drop the tags that nobody has used for a while, but for the newest."""
    links = sorted(_tags(name).glob("*/current/link"), key=lambda path: path.stat().st_mtime)
    old = [link for link in links[:-TAGS_KEPT] if time.time() - link.stat().st_mtime > RECENT_S]
    for link in old:
        progress.output(["rm", "-r", "--", link.parents[1]])
    return bool(old)


def _collect_garbage(place: Place) -> None:
    registry = components.commands(place)["registry"][0]
    configuration = place.run / "registry.yaml"
    command = [registry, "garbage-collect", "--delete-untagged", configuration]
    progress.run(command, places.cache() / "logs" / "registry.log")


def _locked() -> contextlib.AbstractContextManager[bool]:
    return places.lock(places.cache() / "images.lock")


def _log(name: str) -> Path:
    return places.cache() / "logs" / f"image-{name}.log"


ENVIRONMENT = {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "overlay"}


def _buildah_output(*words: str) -> str:
    return progress.output(buildah(*words), env=ENVIRONMENT)


def buildah(*words: str) -> list[str]:
    """A command on the local store, to be run with ENVIRONMENT."""
    store = places.cache() / "buildah"
    return ["buildah", "--root", f"{store}/storage", "--runroot", f"{store}/run", *words]
