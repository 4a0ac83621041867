"""Watches the EndpointSlices of one Service through the API server, and nothing else of it."""

import json
import logging
import os
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from aweigh_router.slices import SERVICE_LABEL, Slices

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_WATCH_S = 300
_SILENT_S = _WATCH_S + 30.0
_CONNECT_S = 5.0
_AGAIN_S, _LONGEST_AGAIN_S = 0.5, 15.0
_LINE_BYTES = 32 << 20  # of one line; a slice has 100 pods

_log = logging.getLogger("aweigh.router")


class NotInCluster(ValueError):
    """There is no API server to ask."""


class Expired(Exception):
    """The watch's place in history is gone: list again."""


@dataclass(frozen=True, slots=True)
class ApiServer:
    """Where it is, and with what a pod comes in."""

    url: str
    account: Path = ACCOUNT  # token, and ca.crt where the URL is https

    @classmethod
    def of_this_pod(cls, environment: Mapping[str, str] = os.environ) -> "ApiServer":
        """The one that Kubernetes tells each pod.

        Raises:
            NotInCluster: it tells none.
        """
        host, port = (environment.get(f"KUBERNETES_SERVICE_{each}") for each in ("HOST", "PORT"))
        if not host or not port:
            raise NotInCluster(
                "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; expected them "
                "as in every pod, or --pod URL instead of --pods-service"
            )
        return cls(f"https://{f'[{host}]' if ':' in host else host}:{port}")

    def tls(self) -> ssl.SSLContext | bool:
        """Whom to trust."""
        if not self.url.startswith("https"):
            return True
        return ssl.create_default_context(cafile=str(self.account / "ca.crt"))

    def headers(self) -> dict[str, str]:
        """The token is read each time: the kubelet replaces it every hour."""
        token = (self.account / "token").read_text().strip()
        return {"Authorization": f"Bearer {token}", "Accept": "application/json"}


class Watch:
    """Follows every change of a Service's pods. What was known stays while nobody answers."""

    def __init__(
        self,
        server: ApiServer,
        namespace: str,
        service: str,
        slices: Slices,
        tell: Callable[[], None],
    ) -> None:
        """`tell` is called whenever `slices` say something else."""
        self._server = server
        self._url = f"{server.url}/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        self._selector = f"{SERVICE_LABEL}={service}"
        self._slices = slices
        self._tell = tell

    async def run(self, sleep: Callable[[float], Any]) -> None:
        """For ever."""
        again_s = _AGAIN_S
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENT_S)
        connector = aiohttp.TCPConnector(ssl=self._server.tls())
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            version: str | None = None
            while True:
                began_s = time.monotonic()
                try:
                    if version is None:
                        version = await self._list(session)
                    version = await self._watch(session, version)
                except Expired:
                    version = None
                    _log.info("the watch has expired; listing again")
                except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError) as error:
                    version = None
                    _log.warning("cannot watch the pods: %s", str(error) or type(error).__name__)
                else:
                    if time.monotonic() - began_s > again_s:  # it has worked until now
                        again_s = _AGAIN_S
                await sleep(again_s * random.uniform(0.5, 1.0))  # not all routers at once
                again_s = min(again_s * 2, _LONGEST_AGAIN_S)

    async def _list(self, session: aiohttp.ClientSession) -> str:
        """Everything; returns from where to watch on."""
        timeout = aiohttp.ClientTimeout(total=30.0)
        parameters = {"labelSelector": self._selector}
        async with session.get(
            self._url, params=parameters, headers=self._server.headers(), timeout=timeout
        ) as response:
            response.raise_for_status()
            found = json.loads(await response.read())
        self._slices.replace(found["items"])
        self._tell()
        version: str = found["metadata"]["resourceVersion"]
        return version

    async def _watch(self, session: aiohttp.ClientSession, version: str) -> str:
        """Until the API server ends it, as it does every few minutes."""
        parameters = {
            "labelSelector": self._selector,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(_WATCH_S),
        }
        async with session.get(
            self._url, params=parameters, headers=self._server.headers()
        ) as response:
            if response.status == 410:
                raise Expired
            response.raise_for_status()
            async for line in _lines(response.content):
                version = self._event(json.loads(line)) or version
        return version

    def _event(self, event: Mapping[str, Any]) -> str | None:
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            if item.get("code") == 410:
                raise Expired
            raise ValueError(f"the API server ended the watch: {item.get('message')}")
        if kind != "BOOKMARK":
            self._slices.change(kind, item)
            self._tell()
        version: str | None = item["metadata"].get("resourceVersion")
        return version


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Of any length: aiohttp's own lines end at 64 KiB."""
    rest = b""
    async for part in content.iter_any():
        *whole, rest = (rest + part).split(b"\n")
        if len(rest) > _LINE_BYTES:
            raise ValueError(f"a line of the watch has more than {_LINE_BYTES} bytes")
        for line in whole:
            if line.strip():
                yield line
