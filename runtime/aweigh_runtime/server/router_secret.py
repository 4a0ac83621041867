"""The router's secret: a request that carries it is the router's. Never logged."""

import hmac
import logging
from pathlib import Path

from multidict import MultiMapping

from aweigh_api.api_keys import digest_of, read_key
from aweigh_api.mounts import Mount, UnusableSecret
from aweigh_api.routing import SECRET_FILE, SECRET_HEADER

_log = logging.getLogger("aweigh.server")


class RouterSecret:
    """What the service's router shows; it may be exchanged at any time."""

    def __init__(self, directory: Path) -> None:
        """Read it.

        Raises:
            UnusableSecret: it is missing or no good.
        """
        self._path = directory / SECRET_FILE
        self._mount = Mount(directory)
        self._digest: bytes | None = self._read()

    def opens(self, headers: MultiMapping[str]) -> bool:
        """Whether a request is the router's."""
        given = headers.getall(SECRET_HEADER, [])
        if len(given) != 1:
            return False
        self._follow()
        digest = digest_of(given[0].encode("utf-8", "surrogateescape"))
        return self._digest is not None and hmac.compare_digest(self._digest, digest)

    def _follow(self) -> None:
        if not self._mount.changed():
            return
        try:
            self._digest = self._read()
        except UnusableSecret as trouble:
            self._digest = None
            _log.error("no request is taken for the router's: %s", trouble)
        else:
            _log.info("read the router's secret again")

    def _read(self) -> bytes:
        return digest_of(read_key(self._path, "router's secret"))
