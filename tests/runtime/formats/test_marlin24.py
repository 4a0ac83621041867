"""Marlin-24's places of kept weights."""

import pytest
import torch

from aweigh_runtime.formats.layout import LayoutError
from aweigh_runtime.formats.marlin24 import (
    COMPRESSED_TENSORS_NAMES,
    GPTQ_NAMES,
    Marlin24Layout,
)
from tests.kernels.weights import Draw


@pytest.mark.parametrize("meta", [0, 0b0001, -1])
def test_places_that_do_not_rise_are_refused(meta: int) -> None:
    layout = Marlin24Layout(bits=4)
    stored = layout.write(Draw().sparse(64, 64, 4, 64))
    stored["B_meta"][1, 17] = meta
    with pytest.raises(LayoutError, match="B_meta keeps one of four columns twice or in falling"):
        layout.read(stored, 64, 64)


def test_a_kept_weight_of_0_keeps_its_place() -> None:
    weight = Draw().sparse(64, 64, 8, 64)
    weight.q.fill_(128)
    layout = Marlin24Layout(bits=8)
    again = layout.read(layout.write(weight), 64, 64)
    assert torch.equal(again.index, weight.index)


def test_names_differ_and_bytes_do_not() -> None:
    weight = Draw().sparse(128, 256, 4, 128)
    one = Marlin24Layout(bits=4, group=128, names=GPTQ_NAMES).write(weight)
    other = Marlin24Layout(bits=4, group=128, names=COMPRESSED_TENSORS_NAMES).write(weight)
    assert list(one) == ["B_24", "s", "B_meta"]
    assert list(other) == ["weight_packed", "scale_packed", "meta"]
    pairs = zip(one.values(), other.values(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


def test_half_the_integers_and_two_bits_of_place_are_stored() -> None:
    parts = Marlin24Layout(bits=4, group=128).parts(14336, 4096)
    assert parts["B_24"].num_bytes == 14336 * 4096 // 4
    assert parts["B_meta"].num_bytes == 14336 * 4096 // 8
