"""What an oci:// URI names. Pure."""

import os
import re
from dataclasses import dataclass
from typing import Self

from aweigh_runtime.failures import InvalidConfiguration

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
PLAIN_HTTP = "AWEIGH_OCI_PLAIN_HTTP"  # registries, by comma, that speak no TLS
_REFERENCE = re.compile(
    r"(?P<registry>[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?)"
    r"/(?P<repository>[a-z0-9][a-z0-9._-]*(?:/[a-z0-9][a-z0-9._-]*)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127})|@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_LOOPBACK = ("localhost", "127.0.0.1")
_DOCKER_HUB = ("docker.io", "index.docker.io")  # names that nothing answers to


@dataclass(frozen=True, slots=True)
class Reference:
    """An artifact of a registry."""

    registry: str
    repository: str
    tag: str
    digest: str | None  # goes before the tag

    @classmethod
    def parse(cls, rest: str) -> Self:
        """Read `REGISTRY/REPOSITORY[:TAG|@DIGEST]`."""
        match = _REFERENCE.fullmatch(rest)
        if match is None:
            raise InvalidConfiguration(
                f"oci://{rest} is no artifact; expected "
                "oci://REGISTRY[:PORT]/REPOSITORY[:TAG|@sha256:DIGEST], the repository in lower "
                "case"
            )
        repository = match["repository"]
        if match["registry"] in _DOCKER_HUB and "/" not in repository:
            repository = f"library/{repository}"
        return cls(match["registry"], repository, match["tag"] or "latest", match["digest"])

    def __str__(self) -> str:
        version = f":{self.tag}" if self.digest is None else f"@{self.digest}"
        return f"oci://{self.registry}/{self.repository}{version}"

    @property
    def endpoint(self) -> str:
        """Where the registry answers."""
        if self.registry in _DOCKER_HUB:
            return "https://registry-1.docker.io"
        plain = os.environ.get(PLAIN_HTTP, "").replace(" ", "").split(",")
        local = self.registry.partition(":")[0] in _LOOPBACK
        return f"{'http' if local or self.registry in plain else 'https'}://{self.registry}"
