"""The header of a safetensors file, checked before any byte of a tensor is believed.

8 bytes: length of the header | header: JSON, name → dtype, shape, offsets | data
"""

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from aweigh_runtime.failures import ModelUnreadable, UnsupportedModel
from aweigh_runtime.fields import is_text

MAX_HEADER_BYTES = 100_000_000
GIT_LFS = b"version https://git-lfs"  # how a file looks that git did not fetch
ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8,
    "F32": 4, "I32": 4, "U32": 4,
    "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies in a file."""

    path: Path
    name: str
    dtype: str  # a key of ITEM_BYTES
    shape: tuple[int, ...]
    start: int  # bytes from the beginning of the file
    num_bytes: int


def read_header(path: Path) -> list[StoredTensor]:
    """All tensors of a file, in the order of their bytes.

    Raises:
        ModelUnreadable: not a safetensors file, truncated, or its header contradicts itself.
        UnsupportedModel: a tensor has a number format that is not known here.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = _header_bytes(path, file.read(32), size)
            file.seek(8)
            header = _parse(path, file.read(length))
    except OSError as error:
        raise ModelUnreadable(f"{path} cannot be read: {error.strerror}") from error
    header.pop("__metadata__", None)
    data = 8 + length
    tensors = [_tensor(path, name, entry, data, size) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.num_bytes))
    for before, after in pairwise(tensors):
        if before.start + before.num_bytes > after.start:
            raise ModelUnreadable(
                f"{path}: tensors {before.name} and {after.name} overlap; copy the model again"
            )
    return tensors


def _header_bytes(path: Path, prefix: bytes, size: int) -> int:
    if prefix.startswith(GIT_LFS):
        raise ModelUnreadable(f"{path} is a Git LFS pointer, not the weights; run git lfs pull")
    length = int.from_bytes(prefix[:8], "little")
    if prefix[8:9] != b"{" or length > MAX_HEADER_BYTES:
        raise ModelUnreadable(f"{path} is not a safetensors file; expected its header first")
    if 8 + length > size:
        raise ModelUnreadable(
            f"{path} is truncated: its header needs {8 + length} bytes and the file has {size}; "
            "copy it again"
        )
    return length


def _parse(path: Path, header: bytes) -> dict[str, Any]:
    try:
        parsed: dict[str, Any] = json.loads(header, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ModelUnreadable(
            f"{path} is not a safetensors file: its header is not valid JSON ({error})"
        ) from error
    return parsed  # an object, because it begins with a brace


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if not all(map(is_text, entries)):
        raise ValueError("a name holds half a surrogate pair")
    if len(entries) != len(pairs):
        raise ValueError("a name stands there twice")
    return entries


def _tensor(path: Path, name: str, entry: Any, data: int, size: int) -> StoredTensor:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if (
            all(type(extent) is int and extent >= 0 for extent in shape)
        ):
            pass
        case _:
            raise ModelUnreadable(f"{path}: tensor {name} is not described as safetensors does")
    if dtype not in ITEM_BYTES:
        raise UnsupportedModel(
            f"{path}: tensor {name} has number format {dtype[:80]!r}, unknown here"
        )
    if begin < 0 or end - begin != math.prod(shape) * ITEM_BYTES[dtype]:
        raise ModelUnreadable(
            f"{path}: tensor {name} of {dtype} {shape} has offsets {begin} to {end}; expected "
            f"{math.prod(shape) * ITEM_BYTES[dtype]} bytes between them"
        )
    if data + end > size:
        raise ModelUnreadable(
            f"{path} is truncated: tensor {name} ends at byte {data + end} and the file has "
            f"{size}; copy it again"
        )
    return StoredTensor(path, name, dtype, tuple(shape), data + begin, end - begin)
