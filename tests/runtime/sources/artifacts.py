"""A registry on a local address, for tests: the pull side of the distribution specification."""

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.runtime.local_server import LocalServer

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
TAR = "application/vnd.oci.image.layer.v1.tar"
TITLE = "org.opencontainers.image.title"
BASIC = "Basic " + base64.b64encode(b"sailor:open sesame").decode()
TOKEN = "signed-for-pulling"

Layer = tuple[bytes, dict[str, Any]]


class ArtifactRegistry(LocalServer):
    """Repositories under names; `auth` says what a request must show."""

    def __init__(self) -> None:
        super().__init__()
        self.auth = ""  # "basic", "token" (for anybody) or "token for a login"
        self.realm = ""  # where tokens are; "" is here
        self.token_uses = 100  # then a token has run out
        self._uses: dict[str, int] = {}
        self._blobs: dict[str, bytes] = {}
        self._manifests: dict[tuple[str, str], bytes] = {}

    def push(self, repository: str, tag: str, *layers: Layer) -> str:
        """Offer layers as REPOSITORY:TAG; return the manifest's digest."""
        for content, _ in layers:
            self._blobs[digest_of(content)] = content
        return self.put(repository, tag, manifest(*layers))

    def put(self, repository: str, tag: str, document: Mapping[str, Any] | bytes) -> str:
        """Offer a manifest or an index as it is."""
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        self._manifests[repository, tag] = content
        self._manifests[repository, digest_of(content)] = content
        return digest_of(content)

    def spoil(self, repository: str, name: str, content: bytes) -> None:
        """Answer with other bytes than those of the digest."""
        self._manifests[repository, name] = content

    def routes(self, app: web.Application) -> None:
        app.router.add_get("/token", self._token)
        app.router.add_get("/v2/{repository:.+}/manifests/{name}", self._manifest)
        app.router.add_get("/v2/{repository:.+}/blobs/{digest}", self._blob)

    async def _token(self, request: web.Request) -> web.StreamResponse:
        assert request.query["service"] == "harbour"
        assert request.query["scope"] == "repository:sea/helmsman:pull"
        if self.auth == "token for a login" and request.headers.get("Authorization") != BASIC:
            return web.Response(status=401)
        token = f"{TOKEN}-{len(self._uses)}"
        self._uses[f"Bearer {token}"] = self.token_uses
        return web.json_response({"token": token})

    async def _manifest(self, request: web.Request) -> web.StreamResponse:
        refused = self._refused(request)
        if refused is not None:
            return refused
        content = self._manifests.get(
            (request.match_info["repository"], request.match_info["name"])
        )
        if content is None:
            return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=404)
        assert MANIFEST in request.headers["Accept"]
        return web.Response(body=content)

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        refused = self._refused(request)
        if refused is not None:
            return refused
        digest = request.match_info["digest"]
        if digest not in self._blobs:
            return web.json_response({"errors": [{"code": "BLOB_UNKNOWN"}]}, status=404)
        return await self.send(request, digest, self._blobs[digest])

    def _refused(self, request: web.Request) -> web.Response | None:
        shown = request.headers.get("Authorization", "")
        if not self.auth or (self.auth == "basic" and shown == BASIC):
            return None
        if self._uses.get(shown, 0) > 0:
            self._uses[shown] -= 1
            return None
        realm = self.realm or f"{self.url}/token"
        challenge = 'Basic realm="harbour"'
        if self.auth != "basic":
            challenge = f'Bearer realm="{realm}",service="harbour",scope="repository:x:pull"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})


def manifest(*layers: Layer) -> dict[str, Any]:
    described = [
        {"mediaType": TAR, "digest": digest_of(content), "size": len(content), **extra}
        for content, extra in layers
    ]
    empty = {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": digest_of(b"{}"),
        "size": 2,
    }
    return {"schemaVersion": 2, "mediaType": MANIFEST, "config": empty, "layers": described}


def file(name: str, content: bytes) -> Layer:
    """A layer as `oras push` makes it of a file."""
    return content, {"annotations": {TITLE: name}}


def files(directory: Path) -> list[Layer]:
    """A layer for each file of a directory."""
    return [file(path.name, path.read_bytes()) for path in sorted(directory.iterdir())]


def archive(members: Mapping[str, bytes | tarfile.TarInfo], *, compress: bool = False) -> Layer:
    """A layer as `docker build` makes it."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    if not compress:
        return output.getvalue(), {}
    return gzip.compress(output.getvalue(), 1), {"mediaType": f"{TAR}+gzip"}


def directory(path: Path, prefix: str, *, compress: bool = False) -> Layer:
    """All files of a directory, under a path of the image."""
    members = {f"{prefix}{file.name}": file.read_bytes() for file in path.iterdir()}
    return archive(members, compress=compress)


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
