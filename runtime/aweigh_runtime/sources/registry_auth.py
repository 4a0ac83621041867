"""How a registry is shown who asks: Basic, or a token from where its challenge points."""

import json
import re

import httpx

from aweigh_runtime.failures import AccessDenied, SourceUnreachable
from aweigh_runtime.sources.answers import expect_no_trouble, read_bounded
from aweigh_runtime.sources.oci_access import Login
from aweigh_runtime.sources.reference import Reference

MAX_TOKEN_BYTES = 1 << 20
_CHALLENGE = re.compile(r"\s*(bearer|basic)\b", re.IGNORECASE)
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


class RegistryAuth:
    """Keeps what the last challenge led to. Threads may share it."""

    def __init__(self, reference: Reference, login: Login | None) -> None:
        self._reference = reference
        self._login = login
        self._authorization = ""

    @property
    def headers(self) -> dict[str, str]:
        """What a request shows."""
        return {"Authorization": self._authorization} if self._authorization else {}

    def answer(self, http: httpx.Client, refused: httpx.Response) -> bool:
        """Get what a 401 asks for; False if there is nothing to show."""
        if refused.history:  # who was redirected to knows neither us nor our login
            return False
        for challenge in refused.headers.get_list("WWW-Authenticate"):
            match = _CHALLENGE.match(challenge)
            if match and match[1].lower() == "bearer":
                self._authorization = self._token(http, challenge, refused.url.scheme)
                return True
            if match:
                self._authorization = "" if self._login is None else self._login.basic
                return bool(self._authorization)
        return False

    def _token(self, http: httpx.Client, challenge: str, scheme: str) -> str:
        parameters = dict(_PARAMETER.findall(challenge))
        realm = self._realm(parameters.get("realm", ""), scheme)
        query = {"scope": f"repository:{self._reference.repository}:pull"}
        if "service" in parameters:
            query["service"] = parameters["service"]
        url = realm.copy_merge_params(query)
        headers = {} if self._login is None else {"Authorization": self._login.basic}
        with http.stream("GET", url, headers=headers) as response:
            return self._read(realm, response)

    def _realm(self, text: str, scheme: str) -> httpx.URL:
        """Where tokens are; nobody who speaks TLS may send us elsewhere with our password."""
        try:
            realm = httpx.URL(text)
        except httpx.InvalidURL:
            realm = httpx.URL("")
        if realm.scheme not in ("https", scheme) or not realm.host:
            raise SourceUnreachable(
                f"{self._reference.registry} wants a token from {text[:200]!r}; expected an "
                "https:// URL"
            )
        return realm

    def _read(self, realm: httpx.URL, response: httpx.Response) -> str:
        expect_no_trouble(response)
        if response.status_code != 200:
            raise AccessDenied(
                f"{realm.host} gives no token for {self._reference} (it answered "
                f"{response.status_code}); check the login in model.secretRef"
            )
        try:
            answer = json.loads(read_bounded(response, MAX_TOKEN_BYTES))
            return f"Bearer {answer.get('token') or answer['access_token']}"
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise SourceUnreachable(
                f"{realm.host} does not answer as a registry's token server; check the registry in "
                "model.uri"
            ) from error
