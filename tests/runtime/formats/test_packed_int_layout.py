"""Packed integers against files that are packed here, number by number."""

from dataclasses import replace

import pytest
import torch

from aweigh_kernels.int_weight import IntWeight
from aweigh_runtime.formats.int_groups import IntGroups
from aweigh_runtime.formats.layout import LayoutError
from aweigh_runtime.formats.packed_int_layout import PackedIntLayout
from tests.kernels.weights import Draw
from tests.runtime.formats.stored import read, written

ROWS, COLUMNS, GROUP = 32, 96, 32
INT3 = PackedIntLayout(groups=IntGroups(bits=3, size=GROUP))
INT3_ZEROS = PackedIntLayout(groups=IntGroups(bits=3, size=GROUP, zeros=True))
ORDERED = PackedIntLayout(groups=IntGroups(bits=4, size=GROUP), act_order=True)


def _words(numbers: list[int], bits: int, dense: bool) -> list[int]:
    """Numbers as signed words of 32 bits."""
    if dense:
        stream = sum(number << (bits * place) for place, number in enumerate(numbers))
        count = -(-len(numbers) * bits // 32)
        words = [(stream >> (32 * place)) & 0xFFFFFFFF for place in range(count)]
    else:
        per_word = 32 // bits
        chunks = [numbers[at : at + per_word] for at in range(0, len(numbers), per_word)]
        words = [sum(each << (bits * at) for at, each in enumerate(chunk)) for chunk in chunks]
    return [word - (1 << 32) if word >> 31 else word for word in words]


def _packed(q: torch.Tensor, bits: int, dense: bool) -> torch.Tensor:
    return torch.tensor([_words(row, bits, dense) for row in q.tolist()], dtype=torch.int32)


def _file(weight: IntWeight, dense: bool) -> dict[str, torch.Tensor]:
    stored = {"weight_packed": _packed(weight.q, weight.bits, dense), "weight_scale": weight.scale}
    stored["weight_shape"] = torch.tensor(weight.shape)
    if weight.zero is not None:
        stored["weight_zero_point"] = _packed(weight.zero.t(), weight.bits, dense).t()
    return stored


def _weight(bits: int = 3, *, zeros: bool = False) -> IntWeight:
    weight = Draw().ints(ROWS, COLUMNS, bits, GROUP, asymmetric=zeros)
    if weight.zero is None:
        return weight
    return replace(weight, zero=weight.zero.clamp(max=(1 << bits) - 1))


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_both_ways_to_pack_3_bits_are_read(dense: bool, zeros: bool) -> None:
    weight = _weight(zeros=zeros)
    again = read(INT3_ZEROS if zeros else INT3, _file(weight, dense), ROWS, COLUMNS)

    assert torch.equal(again.dense(), weight.dense())


def test_3_bits_are_written_as_a_dense_stream() -> None:
    weight = _weight(zeros=True)
    for name, tensor in written(INT3_ZEROS, weight).items():
        assert torch.equal(tensor, _file(weight, dense=True)[name]), name


@pytest.mark.parametrize("columns", [11, 22, 40])
def test_a_width_that_does_not_tell_how_it_is_packed_is_refused(columns: int) -> None:
    layout = PackedIntLayout(groups=IntGroups(bits=3))
    with pytest.raises(LayoutError, match=f"{columns} columns of 3 bits fill as many words"):
        layout.parts(8, columns)


def test_zero_points_that_are_packed_the_other_way_are_refused() -> None:
    weight = _weight(zeros=True)
    stored = _file(weight, dense=True)
    stored["weight_zero_point"] = _file(weight, dense=False)["weight_zero_point"]
    with pytest.raises(LayoutError, match=r"weight_zero_point is .* expected int32 with 3 rows"):
        read(INT3_ZEROS, stored, ROWS, COLUMNS)


def test_zero_points_that_are_not_packed_are_read() -> None:
    weight = _weight(zeros=True)
    assert weight.zero is not None
    stored = _file(weight, dense=False) | {"weight_zero_point": (weight.zero - 4).to(torch.int8)}
    assert torch.equal(read(INT3_ZEROS, stored, ROWS, COLUMNS).dense(), weight.dense())

    stored["weight_zero_point"][3, 1] = 4
    with pytest.raises(LayoutError, match=r"weight_zero_point holds .* to 4; expected -4 to 3"):
        read(INT3_ZEROS, stored, ROWS, COLUMNS)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_words_with_the_highest_bit_set_are_read(bits: int) -> None:
    layout = PackedIntLayout(groups=IntGroups(bits=bits, size=GROUP))
    weight = replace(_weight(bits), q=torch.full((ROWS, COLUMNS), (1 << bits) - 1).to(torch.uint8))
    stored = _file(weight, dense=True)

    assert (stored["weight_packed"] == -1).all()
    assert torch.equal(read(layout, stored, ROWS, COLUMNS).dense(), weight.dense())


def test_with_act_order_each_column_has_the_scale_of_its_group() -> None:
    weight = _weight(4)
    g_idx = torch.arange(COLUMNS, dtype=torch.int32)[torch.randperm(COLUMNS)] // GROUP
    stored = _file(weight, dense=True) | {"weight_g_idx": g_idx}
    dense = read(ORDERED, stored, ROWS, COLUMNS).dense()

    for column, group in enumerate(g_idx.tolist()):
        expected = (weight.q[:, column].float() - 8) * weight.scale[:, group].float()
        assert torch.equal(dense[:, column], expected)


@pytest.mark.parametrize("g_idx", [torch.arange(COLUMNS) // GROUP, torch.full((COLUMNS,), -1)])
def test_columns_that_lie_in_order_stay_so(g_idx: torch.Tensor) -> None:
    weight = _weight(4)
    again = read(ORDERED, _file(weight, dense=True) | {"weight_g_idx": g_idx}, ROWS, COLUMNS)

    assert isinstance(again, IntWeight)
    assert again.perm is None
    assert torch.equal(again.dense(), weight.dense())


@pytest.mark.parametrize(
    ("column", "group", "sentence"),
    [
        (5, 3, "weight_g_idx holds 0 to 3; expected 0 to 2"),
        (5, -1, "weight_g_idx holds -1 to 2; expected 0 to 2"),
        (5, 2, "weight_g_idx puts 31 to 33 columns into a group; expected 32"),
    ],
)
def test_groups_that_no_file_has_are_refused(column: int, group: int, sentence: str) -> None:
    g_idx = torch.arange(COLUMNS, dtype=torch.int32) // GROUP
    g_idx[column] = group
    stored = _file(_weight(4), dense=True) | {"weight_g_idx": g_idx}
    with pytest.raises(LayoutError, match=sentence):
        read(ORDERED, stored, ROWS, COLUMNS)


def test_a_shape_that_contradicts_the_model_is_refused() -> None:
    stored = _file(_weight(), dense=True) | {"weight_shape": torch.tensor([ROWS, COLUMNS + 1])}
    with pytest.raises(LayoutError, match=r"weight_shape is \[32, 97\]; expected \[32, 96\]"):
        read(INT3, stored, ROWS, COLUMNS)


def test_a_scale_of_0_is_refused_where_weights_are_not_0() -> None:
    weight = _weight()
    weight.q[5, GROUP : 2 * GROUP] = 4
    weight.scale[5, 1] = 0
    dense = read(INT3, _file(weight, dense=True), ROWS, COLUMNS).dense()
    assert dense[5, GROUP : 2 * GROUP].eq(0).all()

    weight.q[5, GROUP] = 5
    with pytest.raises(LayoutError, match="weight_scale holds 0 where the weights are not 0"):
        read(INT3, _file(weight, dense=True), ROWS, COLUMNS)


def test_sizes_are_those_of_the_files() -> None:
    """Llama-3.1-8B's widest layer at 4 bits in groups of 128: 3.8 times smaller than bf16."""
    parts = PackedIntLayout(groups=IntGroups(bits=4, size=128)).parts(14336, 4096)
    num_bytes = sum(part.num_bytes for part in parts.values())

    assert num_bytes == 14336 * 4096 // 2 + 14336 * 32 * 2 + 16
    assert 3.8 < 14336 * 4096 * 2 / num_bytes < 4
