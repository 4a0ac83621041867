"""API keys as pods and routers read them from a mounted Secret: one in each file, kept as digests.

Told apart by name, never logged. A request whose key is nobody's is refused by who asked.
"""

import base64
import hashlib
import hmac
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aweigh_api.mounts import Mount, UnusableSecret

MIN_KEY_CHARACTERS = 16
MAX_KEY_CHARACTERS = 1024

# One sentence for every reason: who guesses learns nothing.
WRONG_KEY = (
    "The API key is missing or wrong; expected the header 'Authorization: Bearer KEY' with a "
    "key of this server."
)
CHALLENGE = 'Bearer, Basic realm="Aweigh"'  # WWW-Authenticate of that answer

_log = logging.getLogger("aweigh.server")


class Headers(Protocol):
    """Headers of a request, whatever their case."""

    def get(self, key: str, /) -> str | None:
        """The first of that name."""
        ...

    def getall(self, key: str, default: list[str], /) -> Sequence[str]:
        """All of that name."""
        ...


@dataclass(frozen=True, slots=True)
class Key:
    """One key that opens a server."""

    name: str
    digest: bytes


class Keys:
    """All keys of a server: one in each file of a directory."""

    def __init__(self, directory: Path) -> None:
        """Read them.

        Raises:
            UnusableSecret: there is none that is any good.
        """
        self._directory = directory
        self._mount = Mount(directory)
        self._keys, troubles = self._read()
        if not self._keys:
            raise troubles[0]
        _tell(troubles)  # as later on: whoever restarts a pod must not find it worse than it ran

    def __len__(self) -> int:
        return len(self._keys)

    def owner(self, headers: Headers) -> Key | None:
        """Whose key a request carries; None: nobody's. Every key is compared, in any case."""
        self._follow()
        presented = _presented(headers)
        if presented is None:
            return None
        digest = digest_of(presented)
        matching = [key for key in self._keys if hmac.compare_digest(key.digest, digest)]
        return matching[0] if matching else None

    def _follow(self) -> None:
        """Keys may be exchanged at any time. From then on only what is in good files counts."""
        if not self._mount.changed():
            return
        self._keys, troubles = self._read()
        _tell(troubles)
        names = [key.name for key in self._keys]
        _log.info("read the API keys again", extra={"fields": {"names": names}})

    def _read(self) -> tuple[list[Key], list[UnusableSecret]]:
        """The keys, and why there are no more."""
        try:
            paths = self._mount.files()
        except OSError as error:
            return [], [self._unreadable(error)]
        keys, troubles = [], []
        for path in paths:
            try:
                keys.append(Key(path.name, digest_of(read_key(path, "API key"))))
            except UnusableSecret as trouble:
                troubles.append(trouble)
        if not paths:
            troubles.append(self._empty())
        return keys, troubles

    def _unreadable(self, error: OSError) -> UnusableSecret:
        return UnusableSecret(
            f"cannot read the API keys in {self._directory}: {error.strerror}; expected a "
            "directory with one file for each key"
        )

    def _empty(self) -> UnusableSecret:
        return UnusableSecret(
            f"--api-keys-dir {self._directory} holds no key; expected one file for each key, "
            "or leave the flag out to serve everybody"
        )


def _tell(troubles: list[UnusableSecret]) -> None:
    for trouble in troubles:
        _log.error("a key is not used: %s", trouble)


def read_key(path: Path, what: str) -> bytes:
    """The key in a file, without the line's end; `what` is its name for people.

    Raises:
        UnusableSecret: there is none, or one that no header can carry.
    """
    try:
        with path.open("rb") as file:
            key = file.read(MAX_KEY_CHARACTERS + 3).rstrip(b"\r\n")
    except OSError as error:
        raise UnusableSecret(
            f"cannot read the {what} in {path}: {error.strerror}; expected a readable file"
        ) from error
    if not MIN_KEY_CHARACTERS <= len(key) <= MAX_KEY_CHARACTERS:
        length = "more" if len(key) > MAX_KEY_CHARACTERS else str(len(key))
        raise UnusableSecret(
            f"the {what} in {path} has {length} characters; expected {MIN_KEY_CHARACTERS} to "
            f"{MAX_KEY_CHARACTERS}"
        )
    if not all(0x20 < character < 0x7F for character in key):
        raise UnusableSecret(
            f"the {what} in {path} has spaces, line ends or letters beyond ASCII; expected one "
            "line of visible ASCII characters, or clients cannot send it"
        )
    return key


def digest_of(key: bytes) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key).digest()


def _presented(headers: Headers) -> bytes | None:
    """The key in `Authorization: Bearer KEY`, or the password that a browser has asked for."""
    authorization = headers.getall("Authorization", [])
    if len(authorization) != 1:
        return None
    scheme, _, given = authorization[0].partition(" ")
    match scheme.lower():
        case "bearer":
            return given.strip(" ").encode("utf-8", "surrogateescape")
        case "basic" if _from_our_own_page(headers):
            return _password(given)
    return None


def _from_our_own_page(headers: Headers) -> bool:
    """A browser adds a password that it knows to whatever a foreign page makes it send."""
    origin = headers.get("Origin")
    if origin is None:
        return True
    _, found, host = origin.partition("://")
    return bool(found) and host.lower() == (headers.get("Host") or "").lower()


def _password(given: str) -> bytes | None:
    try:
        _, _, password = base64.b64decode(given, validate=True).partition(b":")
    except ValueError:
        return None
    return password
