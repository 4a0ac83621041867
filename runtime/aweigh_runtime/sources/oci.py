"""Models from an OCI registry, kept as CACHE/oci/REGISTRY-AND-REPOSITORY/VERSION.

VERSION.layers/ holds the blobs until all are here; what a model needs of them is then moved.
"""

import shutil
from pathlib import Path

from aweigh_runtime.sources import Progress
from aweigh_runtime.sources.cache import (
    alone,
    bring_all,
    complete,
    expect_room,
    folder_name,
    record,
    writable,
)
from aweigh_runtime.sources.layers import blob_name, collect, place
from aweigh_runtime.sources.listing import Listing, RemoteFile
from aweigh_runtime.sources.oci_access import read_login
from aweigh_runtime.sources.patience import Effort
from aweigh_runtime.sources.reference import Reference
from aweigh_runtime.sources.registry import Artifact, Registry


def download(
    rest: str, secret_dir: Path | None, cache_dir: Path, progress: Progress, effort: Effort
) -> Path:
    """Bring `REGISTRY/REPOSITORY[:TAG|@DIGEST]` here; see `fetch`."""
    reference = Reference.parse(rest)
    folder = cache_dir / "oci" / folder_name(f"{reference.registry}/{reference.repository}")
    if reference.digest and (here := complete(folder, reference.digest.partition(":")[2])):
        return here
    login = read_login(reference.registry, reference.repository, secret_dir)
    with Registry(reference, login, effort) as registry:
        artifact = registry.artifact()
        with writable(cache_dir):
            return keep_artifact(registry, artifact, folder, progress)


def keep_artifact(registry: Registry, artifact: Artifact, folder: Path, progress: Progress) -> Path:
    """Bring the model of an artifact into its folder of the cache."""
    blobs = folder / f"{artifact.version}.layers"
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        if here := complete(folder, artifact.version):
            return here
        blobs.mkdir(exist_ok=True)
        _expect_model(registry.uri, artifact)
        _bring(registry, artifact, blobs, progress)
        target = _assemble(registry.uri, artifact, blobs, folder)
        shutil.rmtree(blobs)
    return target


def _expect_model(uri: str, artifact: Artifact) -> None:
    """Of plain files the names are known before a byte is here."""
    if all(layer.form == "file" for layer in artifact.layers):
        collect(uri, artifact.layers, Path(), Path()).model()


def _bring(registry: Registry, artifact: Artifact, blobs: Path, progress: Progress) -> None:
    files = {
        layer.digest: RemoteFile(blob_name(layer), layer.size, layer.digest)
        for layer in artifact.layers
    }
    unpacked = sum(layer.size for layer in artifact.layers if layer.form != "file")
    expect_room(registry.uri, unpacked, blobs)
    bring_all(registry, Listing(artifact.version, tuple(files.values())), blobs, progress)


def _assemble(uri: str, artifact: Artifact, blobs: Path, folder: Path) -> Path:
    staging, target = blobs / "unpacked", folder / artifact.version
    for directory in (staging, target):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
    model = collect(uri, artifact.layers, blobs, staging).model()
    record(folder, Listing(artifact.version, place(model, target)))
    return target
