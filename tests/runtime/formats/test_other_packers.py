"""Files that other packers wrote mean what they were told to write; we write the same bytes.

packed_elsewhere.py says which packers, in which versions, and writes the files again.
"""

from collections.abc import Mapping

import pytest
import torch
from safetensors.torch import load_file

from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.sparse_int_weight import SparseIntWeight
from aweigh_runtime.formats.awq import AwqLayout
from aweigh_runtime.formats.gptq_layout import GptqLayout
from aweigh_runtime.formats.marlin24 import COMPRESSED_TENSORS_NAMES, Marlin24Layout
from tests.runtime.formats import known
from tests.runtime.formats.packed_elsewhere import (
    COLUMNS,
    DATA,
    GROUPS,
    MARLIN_COLUMNS,
    MARLIN_ROWS,
    ROWS,
    WIDTHS,
)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("version", [1, 2])
def test_gptq_is_read_and_written_as_autogptq_and_auto_round_write_it(
    bits: int, symmetric: bool, version: int
) -> None:
    kind = "symmetric" if symmetric else "asymmetric"
    stored = _stored("gptq", f"v{version}.{kind}.{bits}")
    layout = GptqLayout(bits=bits, group=GROUPS[bits], version=version, symmetric=symmetric)
    weight = layout.read(stored, ROWS, COLUMNS)
    assert weight.perm is None
    assert (weight.zero is None) == symmetric
    _expect_known(weight, torch.arange(COLUMNS) // GROUPS[bits])
    _expect_same(layout.write(weight), stored)


@pytest.mark.parametrize("bits", [bits for bits in WIDTHS if GROUPS[bits] < COLUMNS])
def test_act_order_is_read_and_written_as_autogptq_writes_it(bits: int) -> None:
    stored = _stored("gptq", f"v1.act_order.{bits}")
    layout = GptqLayout(bits=bits, group=GROUPS[bits], symmetric=False, act_order=True)
    weight = layout.read(stored, ROWS, COLUMNS)
    assert weight.perm is not None
    _expect_known(weight, known.group_of(COLUMNS, GROUPS[bits]))
    _expect_same(layout.write(weight), stored)


def test_awq_is_read_and_written_as_autoawq_writes_it() -> None:
    stored = _stored("awq")
    layout = AwqLayout(group=GROUPS[4])
    weight = layout.read(stored, ROWS, COLUMNS)
    _expect_known(weight, torch.arange(COLUMNS) // GROUPS[4])
    _expect_same(layout.write(weight), stored)


@pytest.mark.parametrize(("bits", "group"), [(4, 128), (4, None), (8, None)])
def test_marlin24_is_read_and_written_as_compressed_tensors_writes_it(
    bits: int, group: int | None
) -> None:
    stored = _stored("marlin24", f"{bits}.{'groups' if group else 'channel'}")
    columns = MARLIN_COLUMNS if group else 64
    layout = Marlin24Layout(bits=bits, group=group, names=COMPRESSED_TENSORS_NAMES)
    weight = layout.read(stored, MARLIN_ROWS, columns)
    expected = SparseIntWeight(
        q=known.kept(MARLIN_ROWS, columns, bits).to(torch.uint8),
        index=known.places(MARLIN_ROWS, columns).to(torch.uint8),
        scale=known.scales(MARLIN_ROWS, columns // (group or columns)),
        bits=bits,
        group=group or columns,
    )
    for name in ("q", "index", "scale"):
        assert torch.equal(getattr(weight, name), getattr(expected, name)), name
    _expect_same(layout.write(weight), stored)


def _expect_known(weight: IntWeight, group_of: torch.Tensor) -> None:
    """Column by column, whatever the order in which the weight keeps them."""
    groups = int(group_of.max()) + 1
    zero = known.zeros(ROWS, groups, weight.bits)
    if weight.zero is None:
        zero = torch.full_like(zero, 1 << (weight.bits - 1))
    whole = known.integers(ROWS, COLUMNS, weight.bits) - zero[:, group_of]
    expected = whole.float() * known.scales(ROWS, groups).float()[:, group_of]
    assert torch.equal(weight.dense(), expected)


def _expect_same(written: Mapping[str, torch.Tensor], stored: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in stored.items():
        assert torch.equal(written[name], tensor), name


def _stored(file: str, prefix: str = "") -> dict[str, torch.Tensor]:
    tensors = load_file(DATA / f"{file}.safetensors")
    start = f"{prefix}." if prefix else ""
    return {
        name.removeprefix(start): tensor
        for name, tensor in tensors.items()
        if name.startswith(start)
    }
