"""Directories whose files are replaced while the server runs, as the kubelet does with Secrets."""

import os
import time
from collections.abc import Hashable
from pathlib import Path

_BETWEEN_LOOKS_S = 1.0


class UnusableSecret(ValueError):
    """What a mounted Secret holds cannot be used; the message says what was expected."""


class Mount:
    """Notices that files of a directory are others than before; it never reads them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._looked_s = time.monotonic()
        self._seen = _seen(directory)

    def changed(self) -> bool:
        """Whether there is news since the last look. Looks at most once a second."""
        now_s = time.monotonic()
        if now_s < self._looked_s + _BETWEEN_LOOKS_S:
            return False
        self._looked_s = now_s
        before, self._seen = self._seen, _seen(self._directory)
        return self._seen != before

    def files(self) -> list[Path]:
        """Its regular files by name, without the hidden ones that a Secret's mount consists of.

        Raises:
            OSError: it cannot be read.
        """
        return sorted(path for path in self._directory.iterdir() if _shown(path) and path.is_file())


def _shown(path: Path) -> bool:
    return not path.name.startswith(".")


def _seen(directory: Path) -> Hashable:
    try:
        with os.scandir(directory) as entries:
            return frozenset(_mark(entry) for entry in entries if _shown(Path(entry)))
    except OSError as error:
        return error.errno


def _mark(entry: os.DirEntry[str]) -> Hashable:
    """Of the file that a link leads to: a Secret's links stay when their target is swapped."""
    found = entry.stat()
    return entry.name, found.st_ino, found.st_mtime_ns, found.st_size
