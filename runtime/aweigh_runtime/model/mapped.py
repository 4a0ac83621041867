"""Reads tensors of a checkpoint by mapping its files, and puts them where they belong."""

import mmap
from collections.abc import Iterable, Iterator
from itertools import groupby

import torch

from aweigh_runtime.failures import ModelUnreadable
from aweigh_runtime.model.header import StoredTensor
from aweigh_runtime.model.placement import Place

FORMATS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
"""As safetensors names them."""


def mapped(tensors: Iterable[StoredTensor]) -> Iterator[tuple[StoredTensor, torch.Tensor]]:
    """Each tensor in its own format: a view of the page cache, private to this process.

    File by file in the order of the bytes, which a disk reads fastest.
    """
    ordered = sorted(tensors, key=lambda tensor: (tensor.path, tensor.start))
    for path, group in groupby(ordered, key=lambda tensor: tensor.path):
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        for tensor in group:
            yield tensor, _view(data, tensor)


def fill(weight: torch.Tensor, place: Place, values: torch.Tensor) -> None:
    """Copy a tensor into its rows of a weight."""
    rows = rows_of(weight, place)
    rows.copy_(values)
    if place.added:
        rows.add_(place.added)


def expect_finite(tensor: StoredTensor, stored: torch.Tensor, converted: torch.Tensor) -> None:
    """Refuse dense numbers with which every answer would be NaN. It takes as long as a copy.

    Args:
        tensor: named in the message.
        stored: its values as the file has them.
        converted: the same in the number format that the model computes in.

    Raises:
        ModelUnreadable: some are NaN or infinite.
    """
    if _finite(converted):
        return
    if _finite(stored):
        raise ModelUnreadable(
            f"{tensor.path}: tensor {tensor.name} holds numbers too large for {converted.dtype}; "
            f"choose another --dtype: it is stored as {tensor.dtype}"
        )
    raise ModelUnreadable(
        f"{tensor.path}: tensor {tensor.name} holds NaN or infinity; expected finite numbers: copy "
        "the model again, or ask whoever made it"
    )


def rows_of(weight: torch.Tensor, place: Place) -> torch.Tensor:
    """The rows of a weight that a tensor fills: a view."""
    matrix = weight if place.expert is None else weight[place.expert]
    return matrix[place.first_row : place.first_row + place.num_rows]


def _finite(values: torch.Tensor) -> bool:
    # Either end is NaN if any value is. `isfinite(values).all()` takes 12 times as long.
    return bool(torch.isfinite(torch.stack(torch.aminmax(values))).all())


def _view(data: mmap.mmap, tensor: StoredTensor) -> torch.Tensor:
    dtype = FORMATS[tensor.dtype]
    count = tensor.num_bytes // dtype.itemsize
    if not count:
        return torch.empty(tensor.shape, dtype=dtype)
    flat = torch.frombuffer(data, dtype=dtype, count=count, offset=tensor.start)
    return flat.view(tensor.shape)
