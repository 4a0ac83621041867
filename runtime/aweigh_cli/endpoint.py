"""An OpenAI-compatible endpoint as a chat needs it: its models, and answers as they come."""

import json
import ssl
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from aweigh_cli.failures import CommandFailure, ExitStatus

RETRY_S = 1.0
TIMEOUT = httpx.Timeout(10.0, read=300.0)

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Address:
    """Where an endpoint is."""

    url: str
    certified_name: str | None = None  # what its certificate is for, where the URL leads elsewhere


class _NotYet(CommandFailure):
    """It may answer later; the message says why not now."""


class Endpoint:
    """A connection to one endpoint. While it answers 503, calls wait.

    With `refused_too` they also wait while nothing listens there yet.
    """

    def __init__(
        self,
        address: Address,
        *,
        api_key: str | None,
        ca_file: Path | None,
        wait_s: float,
        refused_too: bool,
        note: Callable[[str], None],
    ) -> None:
        url, name = address.url, address.certified_name
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(
            base_url=url.rstrip("/") + "/",
            headers=headers,
            timeout=TIMEOUT,
            verify=True if ca_file is None else _trusting(ca_file),
            trust_env=not _on_this_machine(url),  # a proxy cannot reach this machine's loopback
        )
        self._extensions = {} if name is None else {"sni_hostname": name}
        self._url = url
        self._wait_s = wait_s
        self._refused_too = refused_too
        self._note = note

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.close()

    def models(self) -> list[str]:
        """Names of the models that the endpoint serves."""
        response = self._send("GET", "models")
        try:
            return [model["id"] for model in json.loads(response.read())["data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise self._not_openai("models") from error
        finally:
            response.close()

    def answer(self, model: str, messages: list[Message]) -> Generator[str, None, None]:
        """Pieces of the answer's text as the endpoint sends them; closing it stops the answer."""
        body = {"model": model, "messages": messages, "stream": True}
        response = self._send("POST", "chat/completions", body)
        try:
            for line in response.iter_lines():
                if line.startswith("data:") and line != "data: [DONE]":
                    yield self._piece(line.removeprefix("data:"))
        except httpx.HTTPError as error:
            raise CommandFailure(
                f"{self._url} broke off in the middle of the answer ({_cause(error)}); ask again",
                ExitStatus.UNREACHABLE,
            ) from error
        finally:
            response.close()

    def _piece(self, data: str) -> str:
        try:
            event = json.loads(data)
            if "error" in event:
                raise CommandFailure(f"{self._url} gave up the answer: {event['error']['message']}")
            choices = event["choices"]
            return (choices[0]["delta"].get("content") or "") if choices else ""
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise self._not_openai("chat/completions") from error

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        """A successful response whose body is not read yet."""
        deadline = time.monotonic() + self._wait_s
        said = ""
        while True:
            try:
                response = self._attempt(method, path, body)
                break
            except _NotYet as reason:
                if time.monotonic() >= deadline:
                    raise CommandFailure(
                        f"{self._url} still cannot serve after {self._wait_s:.0f} s: {reason}",
                        ExitStatus.UNREACHABLE,
                    ) from reason
                if str(reason) != said:
                    said = str(reason)
                    self._note(f"{said}; waiting")
            time.sleep(RETRY_S)
        if response.is_error:
            raise self._refused(response)
        return response

    def _attempt(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        try:
            request = self._client.build_request(
                method, path, json=body, extensions=self._extensions
            )
            response = self._client.send(request, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise CommandFailure(
                    f"cannot trust {self._url}: {_cause(error)}. Give the certificate of its CA "
                    "with --cacert",
                    ExitStatus.UNREACHABLE,
                ) from error
            failure = _NotYet if self._refused_too and _is_refused(error) else CommandFailure
            raise failure(
                f"cannot reach {self._url}: {_cause(error)}. Start a server with `aweigh serve "
                "builtin://helmsman-8m`, or give the URL of another endpoint",
                ExitStatus.UNREACHABLE,
            ) from error
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            raise _NotYet(_message(response))
        return response

    def _refused(self, response: httpx.Response) -> CommandFailure:
        said = f"{self._url} answered {response.status_code}: {_message(response).rstrip('.')}"
        if response.status_code == httpx.codes.UNAUTHORIZED:
            said += ". Give an API key in AWEIGH_API_KEY or with --api-key"
        return CommandFailure(said)

    def _not_openai(self, path: str) -> CommandFailure:
        return CommandFailure(
            f"{self._url}/{path} did not answer as an OpenAI API does; expected the base URL of "
            "one, which usually ends in /v1"
        )


def _trusting(ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # SSLError among them
        raise CommandFailure(
            f"--cacert is {ca_file}, which cannot be read: {_cause(error)}; expected certificates "
            "as PEM",
            ExitStatus.BAD_INPUT,
        ) from error


def _is_refused(error: BaseException) -> bool:
    """httpx has one class for whatever happens while connecting; the cause tells."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ConnectionRefusedError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def _on_this_machine(url: str) -> bool:
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


def _message(response: httpx.Response) -> str:
    """The server's own words, out of OpenAI's error body where it is one; closes the response."""
    try:
        text = response.read().decode(errors="replace")
    except httpx.HTTPError as error:
        return _cause(error)
    finally:
        response.close()
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip()[:300] or response.reason_phrase


def _cause(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__
