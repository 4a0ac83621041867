"""Tar archives from strangers: files that a model may need come out, nothing else ever does.

No path of an archive is used as a path here, no link is followed, and what an archive may unpack to
is bounded by its own size.
"""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from aweigh_runtime.failures import ModelUnreadable
from aweigh_runtime.sources.cache import expect_room
from aweigh_runtime.sources.listing import may_be_needed
from aweigh_runtime.sources.manifest import plain_path

MAX_RATIO = 20  # of what comes out to what is compressed
SPARE_BYTES = 64 << 20  # beyond the ratio: text shrinks more than weights
REMOVAL = ".wh."  # begins the name of what a later layer of an image removes
_PIECE_BYTES = 1 << 20


def unpack(
    uri: str, archive: Path, *, compressed: bool, staging: Path
) -> Iterator[tuple[str, Path | None]]:
    """Each path of interest and where its bytes are now; None for what is not a regular file.

    Raises:
        ModelUnreadable: the archive is damaged, or made to do harm.
        ModelDoesNotFit: a file is larger than the room on the disk.
    """
    most_bytes = archive.stat().st_size
    if compressed:
        most_bytes = most_bytes * MAX_RATIO + SPARE_BYTES
    try:
        with (
            archive.open("rb") as content,
            _opened(content, compressed) as source,
            _tar(_Forward(source, most_bytes)) as tar,
        ):
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # they would pile up
                path = plain_path(uri, member.name)
                name = path.rpartition("/")[2]
                if name.startswith(REMOVAL) or (may_be_needed(name) and not member.isreg()):
                    yield path, None
                elif may_be_needed(name):
                    expect_room(uri, member.size, staging)
                    yield path, _extract(tar, member, staging / f"{archive.name}-{member.offset}")
    except (tarfile.TarError, ValueError, RecursionError) as error:
        raise ModelUnreadable(
            f"{uri} holds an archive that cannot be unpacked ({error}); expected a tar of a "
            "model's directory"
        ) from error


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> Path:
    content = tar.extractfile(member)
    if content is None or member.issparse():
        raise tarfile.ReadError(f"{member.name!r} is a file with holes")
    with content, path.open("wb") as output:
        while piece := content.read(_PIECE_BYTES):
            output.write(piece)
    if path.stat().st_size != member.size:
        raise tarfile.ReadError(f"{member.name!r} is cut short")
    return path


def _opened(content: IO[bytes], compressed: bool) -> IO[bytes]:
    return cast("IO[bytes]", gzip.GzipFile(fileobj=content, mode="rb")) if compressed else content


def _tar(source: "_Forward") -> tarfile.TarFile:
    return tarfile.open(fileobj=cast("IO[bytes]", source), mode="r:")


@contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise tarfile.ReadError(str(error)) from error


class _Forward:
    """Reads on and on, in small steps, up to a limit.

    A header that claims megabytes, a member of negative size that leads back, and a bomb all end
    here.
    """

    def __init__(self, source: IO[bytes], most_bytes: int) -> None:
        self._source = source
        self._most_bytes = most_bytes

    def tell(self) -> int:
        return self._source.tell()

    def seek(self, position: int) -> int:
        if position < self.tell():
            raise tarfile.ReadError("a member leads back")
        self._expect_within(position)
        with _damage():
            return self._source.seek(position)

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _PIECE_BYTES:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        self._expect_within(self.tell() + size)
        with _damage():
            return self._source.read(size)

    def _expect_within(self, position: int) -> None:
        if position > self._most_bytes + _PIECE_BYTES:
            raise tarfile.ReadError(f"it unpacks to more than {self._most_bytes} bytes")
