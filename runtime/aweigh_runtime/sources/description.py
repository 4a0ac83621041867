"""A model's config.json alone, from where the model is: no weights are fetched, nothing is kept."""

import tempfile
from pathlib import Path

from aweigh_runtime.failures import ModelDoesNotFit, ModelUnreadable
from aweigh_runtime.sources import hub, s3
from aweigh_runtime.sources.access import read_token
from aweigh_runtime.sources.archive import unpack
from aweigh_runtime.sources.bucket import Bucket
from aweigh_runtime.sources.client import Client
from aweigh_runtime.sources.layers import blob_name
from aweigh_runtime.sources.listing import RemoteFile
from aweigh_runtime.sources.manifest import Layer
from aweigh_runtime.sources.oci_access import read_login
from aweigh_runtime.sources.reference import Reference
from aweigh_runtime.sources.registry import Registry
from aweigh_runtime.sources.s3_access import read_access
from aweigh_runtime.sources.transfer import Source

NAME = "config.json"
MOST_BYTES = 16 << 20  # of a file, or of an archive that may hold it
_DELAYS_S = (1.0,)  # somebody waits


def of_hub(repository: str, revision: str | None) -> bytes:
    """That of `ORGANISATION/MODEL`."""
    hub.expect_repository(repository)

    def content() -> bytes:
        with client.file(revision or "main", NAME, 0) as response:
            return response.read()

    with Client(hub.endpoint(), repository, read_token(None), _DELAYS_S) as client:
        return client.patience.repeat(content)


def of_bucket(rest: str) -> bytes:
    """That of `BUCKET/PREFIX`."""
    name, prefix = s3.place(rest)
    with Bucket(name, prefix, read_access(None), _DELAYS_S) as bucket:
        (file,) = [file for file in bucket.listing().files if file.name == NAME]
        return _beginning(bucket, file)


def of_artifact(rest: str) -> bytes:
    """That of `REGISTRY/REPOSITORY[:TAG|@DIGEST]`: the file, or what an archive begins with.

    Raises:
        ModelUnreadable: it stands further behind in an archive, or nowhere.
    """
    reference = Reference.parse(rest)
    login = read_login(reference.registry, reference.repository, None)
    with (
        Registry(reference, login, _DELAYS_S) as registry,
        tempfile.TemporaryDirectory(prefix="aweigh-") as folder,
    ):
        layers = registry.artifact().layers[::-1]  # of two the later one counts
        for layer in sorted(layers, key=lambda layer: layer.path.count("/")):
            content = _of_layer(registry, layer, Path(folder))
            if content is not None:
                return content
    raise ModelUnreadable(
        f"{reference} has no {NAME} within the first {MOST_BYTES >> 20} MiB of a layer; pull it, "
        "unpack it, and give file:///DIRECTORY"
    )


def _of_layer(registry: Registry, layer: Layer, folder: Path) -> bytes | None:
    file = RemoteFile(blob_name(layer), layer.size, layer.digest)
    if layer.form != "file":
        archive = folder / file.name
        archive.write_bytes(_beginning(registry, file))
        return _in_archive(registry.uri, archive, layer)
    return _beginning(registry, file) if layer.path.rpartition("/")[2] == NAME else None


def _in_archive(uri: str, archive: Path, layer: Layer) -> bytes | None:
    compressed = layer.form == "tar+gzip"
    try:
        for path, content in unpack(uri, archive, compressed=compressed, staging=archive.parent):
            if content is not None and path.rpartition("/")[2] == NAME:
                return content.read_bytes()
    except (ModelUnreadable, ModelDoesNotFit):
        if layer.size <= MOST_BYTES:
            raise
    return None  # as far as it is here


def _beginning(source: Source, file: RemoteFile) -> bytes:
    def attempt() -> bytes:
        found = bytearray()
        with source.content(file, 0) as content:
            for piece in content.pieces:
                found += piece
                if len(found) >= MOST_BYTES:
                    break
        return bytes(found)

    return source.patience.repeat(attempt)
