"""A model's config.json, and what packers wrote beside it of its quantization, from where it is.

No weights are fetched, nothing is kept.
"""

import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path

from aweigh_runtime.failures import ModelDoesNotFit, ModelNotFound, ModelUnreadable
from aweigh_runtime.formats.files import CONFIG, SIDE_FILES
from aweigh_runtime.sources import hub, s3
from aweigh_runtime.sources.access import read_token
from aweigh_runtime.sources.archive import unpack
from aweigh_runtime.sources.bucket import Bucket
from aweigh_runtime.sources.client import Client
from aweigh_runtime.sources.layers import blob_name
from aweigh_runtime.sources.listing import RemoteFile
from aweigh_runtime.sources.manifest import Layer
from aweigh_runtime.sources.oci_access import read_login
from aweigh_runtime.sources.patience import Effort
from aweigh_runtime.sources.reference import Reference
from aweigh_runtime.sources.registry import Registry
from aweigh_runtime.sources.s3_access import read_access
from aweigh_runtime.sources.transfer import Source

Files = dict[str, bytes]  # by name: config.json, and those of SIDE_FILES that there are
MOST_BYTES = 16 << 20  # of a file, or of an archive that may hold it
_EFFORT = Effort(delays_s=(1.0,), timeout_s=30.0, longest_wait_s=120.0)  # somebody waits


def of_hub(repository: str, revision: str | None) -> Files:
    """Those of `ORGANISATION/MODEL`."""
    hub.expect_repository(repository)

    def content(name: str) -> bytes:
        with client.file(revision or "main", name, 0) as response:
            return response.read()

    with Client(hub.endpoint(), repository, read_token(None), _EFFORT) as client:
        found = {CONFIG: client.patience.repeat(lambda: content(CONFIG))}
        for name in SIDE_FILES:
            with suppress(ModelNotFound):
                found[name] = client.patience.repeat(partial(content, name))
        return found


def of_bucket(rest: str) -> Files:
    """Those of `BUCKET/PREFIX`."""
    name, prefix = s3.place(rest)
    with Bucket(name, prefix, read_access(None), _EFFORT) as bucket:
        files = [file for file in bucket.listing().files if _is_wanted(file.name)]
        return {file.name: _beginning(bucket, file) for file in files}


def of_artifact(rest: str) -> Files:
    """Those of `REGISTRY/REPOSITORY[:TAG|@DIGEST]`: files, or a config that an archive begins with.

    Raises:
        ModelUnreadable: it stands further behind in an archive, or nowhere.
    """
    reference = Reference.parse(rest)
    login = read_login(reference.registry, reference.repository, None)
    with (
        Registry(reference, login, _EFFORT) as registry,
        tempfile.TemporaryDirectory(prefix="aweigh-") as folder,
    ):
        layers = registry.artifact().layers[::-1]  # of two the later one counts
        found: Files = {}
        for layer in sorted(layers, key=lambda layer: layer.path.count("/")):
            name = layer.path.rpartition("/")[2]
            if layer.form == "file" and _is_wanted(name) and name not in found:
                found[name] = _beginning(registry, _blob(layer))
            elif layer.form != "file" and CONFIG not in found:
                found |= _of_archive(registry, layer, Path(folder))
        if CONFIG in found:
            return found
    raise ModelUnreadable(
        f"{reference} has no {CONFIG} within the first {MOST_BYTES >> 20} MiB of a layer; pull it, "
        "unpack it, and give file:///DIRECTORY"
    )


def _of_archive(registry: Registry, layer: Layer, folder: Path) -> Files:
    blob = _blob(layer)
    archive = folder / blob.name
    archive.write_bytes(_beginning(registry, blob))
    compressed = layer.form == "tar+gzip"
    members = unpack(registry.uri, archive, compressed=compressed, staging=folder)
    try:
        for path, content in members:
            if content is not None and path.rpartition("/")[2] == CONFIG:
                return {CONFIG: content.read_bytes()}
    except (ModelUnreadable, ModelDoesNotFit):
        if layer.size <= MOST_BYTES:
            raise
    return {}  # as far as it is here


def _blob(layer: Layer) -> RemoteFile:
    return RemoteFile(blob_name(layer), layer.size, layer.digest)


def _is_wanted(name: str) -> bool:
    return name == CONFIG or name in SIDE_FILES


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
