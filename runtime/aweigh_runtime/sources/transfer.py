"""One file onto the disk: resumed where it broke off, and renamed only once verified."""

import hashlib
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from aweigh_runtime.failures import ModelUnreadable
from aweigh_runtime.sources import Progress
from aweigh_runtime.sources.listing import RemoteFile
from aweigh_runtime.sources.patience import Patience, Transient


class Content(NamedTuple):
    """Bytes of a file from an offset on."""

    offset: int  # the one asked for, or 0 where the server cannot resume
    pieces: Iterable[bytes]


class Source(Protocol):
    """The files of one model, somewhere else. Threads may share it."""

    @property
    def uri(self) -> str:
        """As the user gave it."""
        ...

    @property
    def patience(self) -> Patience:
        """How often it is asked again."""
        ...

    def content(self, file: RemoteFile, offset: int) -> AbstractContextManager[Content]:
        """A file's bytes; failures that may pass are Transient."""
        ...


class Tally:
    """Bytes that are here, over all files and threads."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total = total
        self._done = 0
        self._progress = progress
        self._lock = threading.Lock()

    def add(self, num_bytes: int) -> None:
        """Count bytes that arrived, or with a minus bytes that turned out useless."""
        with self._lock:
            self._done += num_bytes
            self._progress(self._done, self._total)


def bring(source: Source, file: RemoteFile, target: Path, tally: Tally) -> None:
    """Make `target/NAME` exist with the promised bytes."""
    path, part = target / file.name, part_of(target, file)
    if is_here(target, file):
        tally.add(file.size)
        return
    tally.add(size_of(part))
    source.patience.repeat(lambda: _continue(source, file, part, tally), lambda: size_of(part))
    _verify(source, file, part)
    part.replace(path)


def is_here(target: Path, file: RemoteFile) -> bool:
    """Whether the file is complete: it has its name only then."""
    path = target / file.name
    return path.is_file() and size_of(path) == file.size


def part_of(target: Path, file: RemoteFile) -> Path:
    """Where a file grows until it is complete."""
    return target / f"{file.name}.part"


def size_of(path: Path) -> int:
    """Bytes of a file; none if it does not exist."""
    return path.stat().st_size if path.is_file() else 0


def _continue(source: Source, file: RemoteFile, part: Path, tally: Tally) -> None:
    part.touch()
    offset = size_of(part)
    if offset >= file.size:
        return
    with source.content(file, offset) as content, part.open("ab") as output:
        output.truncate(content.offset)
        tally.add(content.offset - offset)
        offset = content.offset
        for data in content.pieces:
            source.patience.expect_running()
            output.write(data)
            offset += len(data)
            tally.add(len(data))
            if offset > file.size:  # never fill the disk with what was not promised
                return
    if offset < file.size:
        raise Transient(f"{file.name} broke off at byte {offset} of {file.size}")


def _verify(source: Source, file: RemoteFile, part: Path) -> None:
    found, size = _digest(file, part), size_of(part)
    if found == file.digest and size == file.size:
        return
    part.unlink()
    raise ModelUnreadable(
        f"{source.uri}: {file.name} arrived damaged ({size} bytes, checksum {found}; promised were "
        f"{file.size} bytes, {file.digest}) and was removed; start again, and check proxies and "
        "the disk if it happens twice"
    )


def _digest(file: RemoteFile, path: Path) -> str:
    algorithm = file.digest.partition(":")[0]
    with path.open("rb") as content:
        if algorithm == "sha256":
            return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
        if algorithm == "git":
            blob = f"blob {size_of(path)}\0".encode() + content.read()
            return f"git:{hashlib.sha1(blob, usedforsecurity=False).hexdigest()}"
    return file.digest
