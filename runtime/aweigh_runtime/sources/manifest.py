"""What a registry's manifest says. Pure: no network, no disk."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aweigh_runtime.failures import ModelUnreadable
from aweigh_runtime.sources.listing import may_be_needed
from aweigh_runtime.sources.reference import DIGEST

MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_NAMES = ("org.opencontainers.image.title", "org.cncf.model.filepath", "org.cnai.model.filepath")
_UNPACK = "io.deis.oras.content.unpack"  # oras makes a tar of a directory and says so here

Form = Literal["file", "tar", "tar+gzip"]


@dataclass(frozen=True, slots=True)
class Layer:
    """A blob with a file of the model, or an archive."""

    digest: str
    size: int
    form: Form
    path: str  # of a file: where the artifact wants it


@dataclass(frozen=True, slots=True)
class Choice:
    """One manifest of an index."""

    digest: str
    platform: str


def parse(uri: str, document: bytes) -> tuple[Layer, ...] | tuple[Choice, ...]:
    """The layers of a manifest that may hold a model, or what an index leaves to choose.

    Raises:
        ModelUnreadable: it is neither, or the model is in a form that cannot be read.
    """
    try:
        content = json.loads(document)
        if "manifests" in content:
            choices = (_choice(entry) for entry in content["manifests"])
            return tuple(choice for choice in choices if choice is not None)
        layers = (_layer(uri, entry) for entry in content["layers"])
        return tuple(layer for layer in layers if layer is not None)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelUnreadable(
            f"{uri} is no manifest with layers, nor an index ({type(error).__name__}: {error}); "
            "expected an OCI artifact or image with a model"
        ) from error


def plain_path(uri: str, path: str) -> str:
    """A path inside of an artifact; one that leads outside is an attack."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
        raise ModelUnreadable(
            f"{uri} holds a file named {path[:200]!r}, which leads outside of the model's "
            "directory; do not trust this artifact"
        )
    return "/".join(parts)


def _choice(entry: Mapping[str, Any]) -> Choice | None:
    platform = entry.get("platform") or {}
    system, machine = platform.get("os", "any"), platform.get("architecture", "any")
    if system == "unknown":  # a signature or provenance, not a platform
        return None
    return Choice(_digest(entry), f"{system}/{machine}")


def _layer(uri: str, entry: Mapping[str, Any]) -> Layer | None:
    annotations = entry.get("annotations") or {}
    path = plain_path(uri, next((annotations[name] for name in _NAMES if name in annotations), ""))
    form = _form(uri, entry["mediaType"], path, annotations)
    if form is None or (form == "file" and not may_be_needed(path.rpartition("/")[2])):
        return None
    size = entry["size"]
    if type(size) is not int or size < 0:
        raise ValueError(f"a layer has the size {size!r}")
    return Layer(_digest(entry), size, form, path)


def _form(uri: str, media_type: str, path: str, annotations: Mapping[str, str]) -> Form | None:
    unpack = annotations.get(_UNPACK) == "true" or ".model." in media_type
    if path and not (unpack and "tar" in media_type):
        return "file"  # oras calls every file a tar unless told otherwise
    if media_type.endswith("zstd"):
        raise ModelUnreadable(f"{uri} has a layer of {media_type}; expected tar or tar+gzip")
    if media_type.endswith((".tar", "+tar")):
        return "tar"
    if media_type.endswith(("tar+gzip", "tar.gzip")):
        return "tar+gzip"
    return None


def _digest(entry: Mapping[str, Any]) -> str:
    digest = entry["digest"]
    if not DIGEST.fullmatch(digest):
        raise ValueError(f"the digest is {str(digest)[:80]!r}, expected sha256")
    return str(digest)
