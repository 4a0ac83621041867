"""HTTP to an OCI registry: what it answers becomes a value or a failure with a sentence."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Self

import httpx

from aweigh_runtime.failures import (
    AccessDenied,
    ModelNotFound,
    ModelUnreadable,
    SourceUnreachable,
    StartFailure,
)
from aweigh_runtime.sources.answers import (
    HEADERS,
    expect_no_trouble,
    read_bounded,
    transient_errors,
)
from aweigh_runtime.sources.listing import RemoteFile
from aweigh_runtime.sources.manifest import INDEXES, MANIFESTS, Choice, Layer, parse
from aweigh_runtime.sources.oci_access import Login
from aweigh_runtime.sources.patience import THOROUGH, Effort, Patience
from aweigh_runtime.sources.reference import PLAIN_HTTP, Reference
from aweigh_runtime.sources.registry_auth import RegistryAuth
from aweigh_runtime.sources.transfer import Content

MAX_MANIFEST_BYTES = 4 << 20
MAX_CHOICES = 64  # manifests of an index that are looked at
_log = logging.getLogger("aweigh.sources")


@dataclass(frozen=True, slots=True)
class Artifact:
    """The layers behind a reference at this moment."""

    version: str  # of the manifest or index that the reference names: SHA-256
    layers: tuple[Layer, ...]


class Registry:
    """One repository of one registry. Threads may share it."""

    def __init__(
        self, reference: Reference, login: Login | None, effort: Effort = THOROUGH
    ) -> None:
        self.uri = str(reference)
        self._reference = reference
        self._who = "somebody without a login" if login is None else "this login"
        self.patience = Patience(
            self.uri,
            reference.endpoint,
            f"check the network and the proxy, and {PLAIN_HTTP} if the registry speaks no TLS",
            effort,
        )
        self._auth = RegistryAuth(reference, login)
        self._http = httpx.Client(
            base_url=f"{reference.endpoint}/v2/{reference.repository}",
            headers=HEADERS,
            timeout=effort.timeout_s,
            follow_redirects=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.patience.stop()
        self._http.close()

    def artifact(self) -> Artifact:
        """What the reference names now."""
        document = self._manifest(self._reference.digest or self._reference.tag)
        version = hashlib.sha256(document).hexdigest()
        found = parse(self.uri, document)
        for choice in found[:MAX_CHOICES]:
            if isinstance(choice, Choice):
                layers = self._layers(choice)
                if layers:
                    return Artifact(version, layers)
        layers = tuple(layer for layer in found if isinstance(layer, Layer))
        if not layers:
            raise ModelUnreadable(
                f"{self.uri} holds no files of a model; expected layers named *.safetensors and "
                "*.json, or tar archives of them"
            )
        return Artifact(version, layers)

    @contextmanager
    def content(self, file: RemoteFile, offset: int) -> Iterator[Content]:
        """A blob's bytes from `offset` on, or all of them."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self._get(f"/blobs/{file.digest}", headers) as response:
            yield Content(offset if response.status_code == 206 else 0, response.iter_raw())

    def _layers(self, choice: Choice) -> tuple[Layer, ...]:
        found = parse(self.uri, self._manifest(choice.digest))
        layers = tuple(layer for layer in found if isinstance(layer, Layer))
        if layers:
            _log.info("%s is an index; taking %s for %s", self.uri, choice.digest, choice.platform)
        return layers

    def _manifest(self, name: str) -> bytes:
        document = self.patience.repeat(lambda: self._document(name))
        digest = f"sha256:{hashlib.sha256(document).hexdigest()}"
        if name.startswith("sha256:") and digest != name:
            raise ModelUnreadable(
                f"{self.uri}: manifest {name} arrived damaged (checksum {digest}); start again, "
                "and check proxies if it happens twice"
            )
        return document

    def _document(self, name: str) -> bytes:
        with self._get(
            f"/manifests/{name}", {"Accept": ", ".join(MANIFESTS + INDEXES)}
        ) as response:
            try:
                return read_bounded(response, MAX_MANIFEST_BYTES)
            except ValueError as error:
                raise ModelUnreadable(f"{self.uri}: for the manifest {error}") from error

    @contextmanager
    def _get(self, path: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        with transient_errors(), ExitStack() as stack:
            response = stack.enter_context(self._ask(path, headers))
            if response.status_code == 401 and self._auth.answer(self._http, response):
                stack.close()
                response = stack.enter_context(self._ask(path, headers))
            expect_no_trouble(response)
            if response.status_code >= 400:
                raise self._refusal(response.status_code)
            yield response

    def _ask(self, path: str, headers: dict[str, str]) -> AbstractContextManager[httpx.Response]:
        # httpx drops the authorization when a redirect leads to another host.
        return self._http.stream("GET", path, headers=headers | self._auth.headers)

    def _refusal(self, status: int) -> StartFailure:
        if status in (401, 403):
            return AccessDenied(
                f"{self.uri} does not exist, or {self._who} may not pull it (the registry answered "
                f"{status}); check the name, or give a login that may with model.secretRef (in a "
                "cluster) or `docker login`"
            )
        if status == 404:
            return ModelNotFound(f"there is no {self.uri}, or not all of it; check its URI")
        return SourceUnreachable(
            f"{self._reference.endpoint} answered {status} when asked for {self.uri}"
        )
