"""AWQ's zero points, where the config says that there are none."""

import pytest
import torch

from aweigh_runtime.formats.awq import AwqLayout
from aweigh_runtime.formats.layout import LayoutError
from tests.kernels.weights import Draw

SYMMETRIC = AwqLayout(group=32, symmetric=True)


def test_a_symmetric_file_may_leave_zero_points_out() -> None:
    weight = Draw().ints(32, 64, 4, 32)
    stored = SYMMETRIC.write(weight)
    assert set(stored["qzeros"].flatten().tolist()) == {-0x77777778}
    del stored["qzeros"]
    assert SYMMETRIC.parts(32, 64)["qzeros"].optional
    assert torch.equal(SYMMETRIC.read(stored, 32, 64).dense(), weight.dense())


def test_zero_points_in_a_file_that_says_it_has_none_are_refused() -> None:
    stored = SYMMETRIC.write(Draw().ints(32, 64, 4, 32))
    stored["qzeros"][1, 2] = 0x12345678
    with pytest.raises(
        LayoutError, match=r"qzeros holds 1 to 8; expected 8 everywhere, .* set zero"
    ):
        SYMMETRIC.read(stored, 32, 64)


def test_zero_points_reach_from_0_to_15() -> None:
    layout = AwqLayout(group=32)
    stored = layout.write(Draw().ints(32, 64, 4, 32))
    stored["qzeros"].fill_(-1)
    stored["qzeros"][0].fill_(0)
    zero = layout.read(stored, 32, 64).zero
    assert zero is not None
    assert zero[0].tolist() == [0, 15]


def test_people_read_what_the_layout_is() -> None:
    assert AwqLayout(group=128).name == "awq 4 bit, groups of 128, zero points"
    assert AwqLayout(symmetric=True).name == "awq 4 bit, one group"
