"""Name and password for a registry: from a mounted Secret, else from Docker's configuration.

They are never shown.
"""

import base64
import binascii
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aweigh_runtime.failures import AccessDenied

_DOCKER_CONFIG = ".dockerconfigjson"
_ALIASES = {"index.docker.io": "docker.io", "registry-1.docker.io": "docker.io"}


@dataclass(frozen=True, slots=True)
class Login:
    """Who asks."""

    username: str
    password: str = field(repr=False)

    @property
    def basic(self) -> str:
        """The Authorization header of HTTP's Basic scheme."""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


def read_login(registry: str, repository: str, secret_dir: Path | None) -> Login | None:
    """The login to use, if there is one.

    Raises:
        AccessDenied: the Secret holds none for this registry, or something that cannot be one.
    """
    if secret_dir is None:
        home = os.environ.get("DOCKER_CONFIG") or str(Path.home() / ".docker")
        path = Path(home) / "config.json"
        return _from_docker(path, registry, repository) if path.is_file() else None
    path = secret_dir / _DOCKER_CONFIG
    if path.is_file():
        login = _from_docker(path, registry, repository)
        if login is None:
            raise AccessDenied(
                f"{path} has no login for {registry}; add one to the Secret of model.secretRef"
            )
        return login
    found = [_text(secret_dir / key) for key in ("username", "password")]
    if not all(found):
        raise AccessDenied(
            f"the Secret mounted at {secret_dir} has no {_DOCKER_CONFIG} and no username with a "
            "password; add them to the Secret of model.secretRef"
        )
    return Login(*found)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip() if path.is_file() else ""
    except UnicodeDecodeError:
        return ""


def _from_docker(path: Path, registry: str, repository: str) -> Login | None:
    """The entry for the longest part of REGISTRY/REPOSITORY that has one."""
    try:
        entries = {
            _place(key): entry for key, entry in json.loads(path.read_text())["auths"].items()
        }
        wanted = _place(f"{registry}/{repository}")
        while wanted:
            if login := _login(entries.get(wanted, {})):
                return login
            wanted = wanted.rpartition("/")[0]
    except KeyError:
        return None  # logins may be elsewhere, with a helper of Docker's
    except (ValueError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
        raise AccessDenied(
            f"{path} cannot be read as Docker's configuration; expected "
            '{"auths": {"REGISTRY": {"auth": "…"}}}'
        ) from error
    return None


def _place(key: str) -> str:
    """A key such as https://index.docker.io/v1/ without what is not a place."""
    host, _, path = key.rpartition("://")[2].strip("/").partition("/")
    path = "" if path in ("v1", "v2") else path
    return f"{_ALIASES.get(host, host)}/{path}".rstrip("/")


def _login(entry: Mapping[str, Any]) -> Login | None:
    if entry.get("username") and entry.get("password"):
        return Login(str(entry["username"]), str(entry["password"]))
    name, _, password = base64.b64decode(entry.get("auth") or "").decode().partition(":")
    return Login(name, password) if name and password else None
