"""HTTP to a Hugging Face hub: what it answers becomes a value or a failure with a sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self
from urllib.parse import quote

import httpx
from huggingface_hub import hf_hub_url

from aweigh_runtime.failures import (
    AccessDenied,
    InvalidConfiguration,
    ModelNotFound,
    SourceUnreachable,
    StartFailure,
)
from aweigh_runtime.sources.answers import HEADERS, expect_no_trouble, transient_errors
from aweigh_runtime.sources.hub_answer import parse
from aweigh_runtime.sources.listing import Listing
from aweigh_runtime.sources.patience import THOROUGH, Effort, Patience


class Client:
    """One repository of one hub. Threads may share it."""

    def __init__(
        self, endpoint: str, repository: str, token: str | None, effort: Effort = THOROUGH
    ) -> None:
        self.uri = f"hf://{repository}"
        self._endpoint = endpoint
        self._repository = repository
        self._has_token = token is not None
        self.patience = Patience(
            self.uri, endpoint, "check the network, HF_ENDPOINT and the proxy", effort
        )
        headers = dict(HEADERS)
        if token is not None:  # httpx drops it when a redirect leads to another host
            headers["Authorization"] = f"Bearer {token}"
        try:
            self._http = httpx.Client(
                base_url=_checked(endpoint),
                headers=headers,
                timeout=effort.timeout_s,
                follow_redirects=True,
            )
        except httpx.InvalidURL as error:
            raise _bad_endpoint(endpoint) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.patience.stop()
        self._http.close()

    def listing(self, revision: str) -> Listing:
        """What the repository holds at a revision, and which commit that is."""
        return self.patience.repeat(lambda: self._listing(revision))

    @contextmanager
    def file(self, commit: str, name: str, offset: int) -> Iterator[httpx.Response]:
        """A file's bytes from `offset` on (status 206), or all of them (status 200)."""
        url = hf_hub_url(self._repository, name, revision=commit, endpoint=self._endpoint)
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with transient_errors(), self._http.stream("GET", url, headers=headers) as response:
            self._check(response, commit)
            yield response

    def _listing(self, revision: str) -> Listing:
        path = f"/api/models/{self._repository}/revision/{quote(revision, safe='')}"
        with transient_errors():
            response = self._http.get(path, params={"blobs": "true"})
        self._check(response, revision)
        try:
            return parse(self.uri, response.json())
        except (ValueError, TypeError, KeyError) as error:
            raise SourceUnreachable(
                f"{self._endpoint} does not answer as a Hugging Face hub ({error}); check "
                "HF_ENDPOINT"
            ) from error

    def _check(self, response: httpx.Response, revision: str) -> None:
        expect_no_trouble(response)
        if response.status_code >= 400:
            raise self._refusal(response, revision)

    def _refusal(self, response: httpx.Response, revision: str) -> StartFailure:
        status, code = response.status_code, response.headers.get("X-Error-Code", "")
        if code == "GatedRepo":
            return AccessDenied(
                f"{self.uri} is gated and {self._who()} may not read it; accept its terms on the "
                f"hub, then {self._remedy()}"
            )
        if status in (401, 403):
            return AccessDenied(
                f"{self.uri} does not exist, or {self._who()} may not read it (the hub answered "
                f"{status}); check the name, or {self._remedy()}"
            )
        if status == 404 and code == "RevisionNotFound":
            return ModelNotFound(f"{self.uri} has no revision {revision!r}; check model.revision")
        if status == 404:
            return ModelNotFound(f"there is no {self.uri} at {self._endpoint}; check its URI")
        return SourceUnreachable(f"{self._endpoint} answered {status} when asked for {self.uri}")

    def _who(self) -> str:
        return "this token" if self._has_token else "somebody without a token"

    def _remedy(self) -> str:
        return "give a token that may with model.secretRef (in a cluster) or HF_TOKEN"


def _checked(endpoint: str) -> str:
    if not endpoint.startswith(("http://", "https://")):
        raise _bad_endpoint(endpoint)
    return endpoint


def _bad_endpoint(endpoint: str) -> InvalidConfiguration:
    return InvalidConfiguration(f"HF_ENDPOINT is {endpoint!r}; expected http://… or https://…")
