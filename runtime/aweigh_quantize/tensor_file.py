"""Writes the files of a model. A file has its name only once all of it is on the disk.

So has a folder whose files are all written here, once `settle` was called for it.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from aweigh_runtime.model.header import StoredTensor, read_header
from aweigh_runtime.model.mapped import FORMATS, mapped

_NAMES = {dtype: name for name, dtype in FORMATS.items()}
_ALIGNMENT = 8  # of the data, as the format's own library writes it
_UNFINISHED = ".unfinished"


_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


class CannotWrite(Exception):
    """The disk is full or refuses; the message says what was being written, and what to do."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"cannot write {path}: {error.strerror or error}; {_remedy(error)}")
        self.refused = error.errno in _REFUSED


def _remedy(error: OSError) -> str:
    again = "give the same command again: it goes on where it stopped"
    if error.errno in _FULL:
        return f"make room and {again}"
    if error.errno == errno.EFBIG:
        return f"raise the limit on the size of files (ulimit -f) and {again}"
    if error.errno in _REFUSED:
        return "expected a folder that this user may write to: allow it, or name another"
    return f"mend that and {again}"


def make_folder(path: Path) -> None:
    """Make a folder, unless it is there.

    Raises:
        CannotWrite: there is no permission, or a file in its place.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(path, error) from error


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file that is going to be written."""

    name: str
    dtype: str  # as safetensors names it
    shape: tuple[int, ...]
    num_bytes: int
    values: Callable[[], torch.Tensor]  # read when it is its turn


def entry(name: str, tensor: torch.Tensor) -> Entry:
    """For a tensor that is in memory."""
    shape = tuple(tensor.shape)
    return Entry(name, _NAMES[tensor.dtype], shape, tensor.nbytes, lambda: tensor)


def stored_entry(tensor: StoredTensor, name: str | None = None) -> Entry:
    """For a tensor that lies in another file."""

    def read() -> torch.Tensor:
        return next(mapped([tensor]))[1]

    return Entry(name or tensor.name, tensor.dtype, tensor.shape, tensor.num_bytes, read)


def write_tensors(path: Path, entries: list[Entry]) -> None:
    """Write a file that holds them in this order.

    Raises:
        CannotWrite: there is no room, or no permission.
    """
    with written(path) as target, target.open("wb") as file:
        file.write(_header(entries))
        for each in entries:
            file.write(_bytes(each.values()))
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a file of text.

    Raises:
        CannotWrite: there is no room, or no permission.
    """
    with written(path) as target, target.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def copy_file(source: Path, path: Path) -> None:
    """Write a file that holds what another does.

    Raises:
        CannotWrite: there is no room, no permission, or the other cannot be read.
    """
    with written(path) as target, target.open("wb") as file:
        with source.open("rb") as content:
            shutil.copyfileobj(content, file)
        file.flush()
        os.fsync(file.fileno())


def settle(folder: Path) -> None:
    """Bring a folder's list of names to the disk: else a power cut may undo what became of them.

    Raises:
        OSError: the disk refuses.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file that was written here: views of it.

    Raises:
        ModelUnreadable: it is broken.
    """
    return {tensor.name: values for tensor, values in mapped(read_header(path))}


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A place to write to that becomes `path` in one step, also on the disk, unless writing fails.

    Raises:
        CannotWrite: it failed.
    """
    target = path.with_name(path.name + _UNFINISHED)
    try:
        yield target
        target.replace(path)
        settle(path.parent)
    except OSError as error:
        with suppress(OSError):  # where nothing can be written, nothing can be removed
            target.unlink(missing_ok=True)
        raise CannotWrite(path, error) from error


def _header(entries: list[Entry]) -> bytes:
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    described |= _described(entries)
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _described(entries: list[Entry]) -> Mapping[str, object]:
    found, begin = {}, 0
    for each in entries:
        end = begin + each.num_bytes
        found[each.name] = {"dtype": each.dtype, "shape": each.shape, "data_offsets": [begin, end]}
        begin = end
    return found


def _bytes(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data
