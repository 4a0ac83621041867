"""Asks pods over their public port, as their router."""

import io
import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from aweigh_api.api_keys import read_key
from aweigh_api.mounts import Mount, UnusableSecret
from aweigh_api.routing import (
    ALONE_HEADER,
    KEEP_PATH,
    KEEP_S,
    REPORT_PATH,
    ROOM_HEADER,
    ROUTER_HEADER,
    SECRET_FILE,
    SECRET_HEADER,
    TENANT_HEADER,
)
from aweigh_router.rooms import Pod
from aweigh_router.trust import Trust

CONNECT_S = 3.0
IDLE_S = 15.0  # an idle connection; pods close theirs after 60 s
READ_BYTES = 64 << 10  # of one stream, before its pod has to wait

# Of one connection, or ours to set (RFC 9110, 7.6.1).
_NOT_PASSED_ON = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        SECRET_HEADER.lower(),
        TENANT_HEADER.lower(),
        ROUTER_HEADER.lower(),
        ALONE_HEADER.lower(),
        ROOM_HEADER.lower(),
    }
)


_log = logging.getLogger("aweigh.router")


class Secret:
    """What proves to pods that the router asks; read again when the file is replaced."""

    def __init__(self, directory: Path) -> None:
        """Read it.

        Raises:
            UnusableSecret: it is not there, or no good.
        """
        self._path = directory / SECRET_FILE
        self._mount = Mount(directory)
        self._value = self._read()

    def value(self) -> str:
        """The secret as it is now; one that is no good leaves it as it was."""
        if self._mount.changed():
            try:
                self._value = self._read()
            except UnusableSecret as trouble:
                _log.error("the router's secret stays as it was: %s", trouble)
        return self._value

    def _read(self) -> str:
        return read_key(self._path, "router's secret").decode()


class PodClient:
    """Connections to all pods; use as an asynchronous context."""

    def __init__(self, secret: Secret | None, trust: Trust | None) -> None:
        """Without a secret pods take requests as any client's; `trust` is for those with TLS."""
        self._secret = secret
        self._trust = trust
        self._name = secrets.token_hex(8)

    async def __aenter__(self) -> Self:
        tls = True if self._trust is None else self._trust.context
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S, ssl=tls),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=READ_BYTES,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    @property
    def has_secret(self) -> bool:
        """Whether pods can know the router."""
        return self._secret is not None

    def ask(
        self,
        pod: Pod,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | bytearray | None = None,
        *,
        alone: bool = False,
    ) -> "aiohttp.client._RequestContextManager":
        """Send a request; `headers` are those of `passed_on`. `alone`: nothing may run beside."""
        ours = self._proof()
        if alone:
            ours[ALONE_HEADER] = "1"
        return self._session.request(
            method,
            URL(pod.found.url + path, encoded=True),
            data=None if body is None else io.BytesIO(body),  # in pieces: others wait meanwhile
            headers={**headers, **ours},
            allow_redirects=False,
        )

    def report(self, pod: Pod, silent_s: float) -> "aiohttp.client._RequestContextManager":
        """Ask for the pod's reports. They end when none comes for `silent_s`."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=silent_s)
        url = pod.found.url + REPORT_PATH
        return self._session.get(url, headers=self._proof(), timeout=timeout)

    async def keep(self, pod: Pod) -> bool:
        """Have the pod keep what becomes free there; False: it does so for another router.

        Raises:
            aiohttp.ClientError, OSError: it does not answer.
        """
        timeout = aiohttp.ClientTimeout(total=KEEP_S, sock_connect=CONNECT_S)
        url = pod.found.url + KEEP_PATH
        async with self._session.post(url, headers=self._proof(), timeout=timeout) as response:
            return response.status != 409  # an older pod knows nothing of it

    def _proof(self) -> dict[str, str]:
        if self._trust is not None:
            self._trust.follow()
        if self._secret is None:
            return {}
        return {SECRET_HEADER: self._secret.value(), ROUTER_HEADER: self._name}


def passed_on(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """Of a message's headers, those that the other side gets: no client speaks as a router."""
    named = {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    return CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if name.lower() not in _NOT_PASSED_ON and name.lower() not in named
    )
