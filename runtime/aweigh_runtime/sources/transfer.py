"""One file of a hub onto the disk: resumed where it broke off, and renamed only once verified."""

import hashlib
import threading
from pathlib import Path

from aweigh_runtime.failures import ModelUnreadable
from aweigh_runtime.sources import Progress
from aweigh_runtime.sources.client import Client, Transient
from aweigh_runtime.sources.listing import RemoteFile


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


def bring(client: Client, commit: str, file: RemoteFile, target: Path, tally: Tally) -> None:
    """Make `target/NAME` exist with the promised bytes."""
    path, part = target / file.name, part_of(target, file)
    if size_of(path) == file.size:
        tally.add(file.size)
        return
    tally.add(size_of(part))
    client.patiently(lambda: _continue(client, commit, file, part, tally), lambda: size_of(part))
    _verify(client, file, part)
    part.replace(path)


def part_of(target: Path, file: RemoteFile) -> Path:
    """Where a file grows until it is complete."""
    return target / f"{file.name}.part"


def size_of(path: Path) -> int:
    """Bytes of a file; none if it does not exist."""
    return path.stat().st_size if path.is_file() else 0


def _continue(client: Client, commit: str, file: RemoteFile, part: Path, tally: Tally) -> None:
    offset = size_of(part)
    if offset >= file.size > 0:
        return
    with client.file(commit, file.name, offset) as response, part.open("ab") as output:
        if response.status_code != 206:  # this server cannot resume
            output.truncate(0)
            tally.add(-offset)
            offset = 0
        for data in response.iter_raw():
            client.expect_running()
            output.write(data)
            offset += len(data)
            tally.add(len(data))
            if offset > file.size:  # never fill the disk with what was not promised
                return
    if offset < file.size:
        raise Transient(f"{file.name} broke off at byte {offset} of {file.size}")


def _verify(client: Client, file: RemoteFile, part: Path) -> None:
    found = _digest(file, part)
    if found == file.digest and size_of(part) == file.size:
        return
    part.unlink()
    raise ModelUnreadable(
        f"{client.uri}: {file.name} arrived damaged (checksum {found}; the hub promised "
        f"{file.digest}) and was removed; start again, and check proxies and the disk if it "
        "happens twice"
    )


def _digest(file: RemoteFile, path: Path) -> str:
    with path.open("rb") as content:
        if file.large:
            return hashlib.file_digest(content, "sha256").hexdigest()
        prefix = f"blob {size_of(path)}\0".encode()
        return hashlib.sha1(prefix + content.read(), usedforsecurity=False).hexdigest()
