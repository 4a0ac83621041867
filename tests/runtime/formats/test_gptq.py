"""What goes wrong in GPTQ's tensors is refused by name, or read as its packers meant it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import aweigh_runtime
from aweigh_kernels.int_weight import IntWeight
from aweigh_quantize.methods import rtn
from aweigh_quantize.methods.grid import Grid
from aweigh_runtime.formats.gptq_layout import GptqLayout
from aweigh_runtime.formats.layout import LayoutError
from tests.kernels.weights import Draw

ROWS, COLUMNS = 32, 128
ACT_ORDER = GptqLayout(bits=4, group=32, act_order=True)
IN_ORDER = GptqLayout(bits=4, group=32)


def _stored(layout: GptqLayout) -> dict[str, torch.Tensor]:
    return layout.write(
        Draw().ints(ROWS, COLUMNS, layout.bits, layout.group or COLUMNS, act_order=layout.act_order)
    )


def _refused(layout: GptqLayout, stored: dict[str, torch.Tensor]) -> str:
    with pytest.raises(LayoutError) as refusal:
        layout.read(stored, ROWS, COLUMNS)
    return str(refusal.value)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(("declared", "true"), [(1, 2), (2, 1)])
def test_a_symmetric_file_that_names_the_other_version_is_refused(
    bits: int, declared: int, true: int
) -> None:
    stored = _stored(GptqLayout(bits=bits, version=true))
    message = _refused(GptqLayout(bits=bits, version=declared), stored)
    assert f"set checkpoint_format to {'gptq' if true == 1 else 'gptq_v2'}" in message


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize(("declared", "true"), [(1, 2), (2, 1)])
def test_no_matrix_with_zero_points_is_read_as_one_of_the_other_version(
    bits: int, declared: int, true: int
) -> None:
    read = {
        version: GptqLayout(bits=bits, group=128, version=version, symmetric=False)
        for version in (declared, true)
    }
    for name, dense in _trained():
        weight = rtn.quantize(dense, Grid(bits=bits, group=128, symmetric=False))
        assert weight.zero is not None
        weight.zero.clamp_(1, (1 << bits) - 1)  # what either version holds
        stored, shape = read[true].write(weight), weight.shape
        assert torch.equal(read[true].read(stored, *shape).dense(), weight.dense()), name
        with pytest.raises(LayoutError) as refusal:
            read[declared].read(stored, *shape)
        assert f"set checkpoint_format to {'gptq' if true == 1 else 'gptq_v2'}" in str(
            refusal.value
        )


def _trained() -> Iterator[tuple[str, torch.Tensor]]:
    """Matrices of the layers of a real model."""
    model = Path(aweigh_runtime.__file__).parent / "builtin" / "helmsman-8m"
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                if "proj" in name:
                    yield name, file.get_tensor(name).float()


@pytest.mark.parametrize("version", [1, 2])
def test_a_matrix_too_small_to_tell_its_version_is_read(version: int) -> None:
    one_off = IntWeight(
        q=torch.full((ROWS, COLUMNS), 7, dtype=torch.uint8),
        scale=torch.ones(ROWS, 1, dtype=torch.float16),
        zero=torch.tensor([4, 12] * (ROWS // 2), dtype=torch.int16)[:, None] - 3 + 2 * version,
        bits=4,
        group=COLUMNS,
    )
    layout = GptqLayout(bits=4, version=version, symmetric=False)
    again = layout.read(layout.write(one_off), ROWS, COLUMNS)
    assert torch.equal(again.dense(), one_off.dense())


@pytest.mark.parametrize(
    ("bits", "version", "word"),
    [
        (4, 1, 0x77777777),
        (4, 2, -0x77777778),
        (8, 1, 0x7F7F7F7F),
        (8, 2, -0x7F7F7F80),
        (2, 1, 0x55555555),
        (2, 2, -0x55555556),
    ],
)
def test_symmetric_files_hold_the_well_known_words(bits: int, version: int, word: int) -> None:
    assert set(_stored(GptqLayout(bits=bits, version=version))["qzeros"].flatten().tolist()) == {
        word
    }


def test_zero_points_in_a_file_that_says_it_has_none_are_refused() -> None:
    weight = Draw().ints(ROWS, COLUMNS, 4, 32, asymmetric=True)
    stored = GptqLayout(bits=4, group=32, symmetric=False, version=2).write(
        IntWeight(
            q=weight.q,
            scale=weight.scale,
            zero=None if weight.zero is None else weight.zero.clamp(3, 12),
            bits=4,
            group=32,
        )
    )
    message = _refused(GptqLayout(bits=4, group=32, version=2), stored)
    assert "qzeros holds 3 to 12; expected 8 everywhere" in message
    assert "set sym to false" in message


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_largest_stored_zero_point_of_version_1_means_one_more(bits: int) -> None:
    layout = GptqLayout(bits=bits, symmetric=False)
    stored = _stored(GptqLayout(bits=bits))
    stored["qzeros"].fill_(-1)
    zero = layout.read(stored, ROWS, COLUMNS).zero
    assert zero is not None
    assert set(zero.flatten().tolist()) == {1 << bits}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_smallest_stored_zero_point_of_version_2_means_none(bits: int) -> None:
    layout = GptqLayout(bits=bits, version=2, symmetric=False)
    stored = _stored(GptqLayout(bits=bits))
    stored["qzeros"].zero_()
    zero = layout.read(stored, ROWS, COLUMNS).zero
    assert zero is not None
    assert not zero.any()


@pytest.mark.parametrize("g_idx", ["absent", "zeros", "in order"])
def test_groups_are_in_order_without_act_order_whether_or_not_the_file_says_so(g_idx: str) -> None:
    stored = _stored(IN_ORDER)
    weight = IN_ORDER.read(stored, ROWS, COLUMNS)
    if g_idx == "absent":
        del stored["g_idx"]
    if g_idx == "zeros":
        stored["g_idx"].zero_()
    again = IN_ORDER.read(stored, ROWS, COLUMNS)
    assert again.perm is None
    assert torch.equal(again.dense(), weight.dense())


def test_groups_out_of_order_count_even_where_the_config_forgot_act_order() -> None:
    stored = _stored(ACT_ORDER)
    expected = ACT_ORDER.read(stored, ROWS, COLUMNS)
    assert expected.perm is not None
    assert torch.equal(IN_ORDER.read(stored, ROWS, COLUMNS).dense(), expected.dense())


def test_act_order_with_static_groups_costs_no_permutation() -> None:
    stored = _stored(IN_ORDER)
    assert ACT_ORDER.read(stored, ROWS, COLUMNS).perm is None
    assert not ACT_ORDER.parts(ROWS, COLUMNS)["g_idx"].optional


@pytest.mark.parametrize("layout", [ACT_ORDER, IN_ORDER])
@pytest.mark.parametrize(("value", "found"), [(-1, "-1 to 3"), (4, "0 to 4"), (1 << 30, "0 to")])
def test_a_group_out_of_range_is_refused(layout: GptqLayout, value: int, found: str) -> None:
    stored = _stored(ACT_ORDER)
    stored["g_idx"][7] = value
    message = _refused(layout, stored)
    assert f"g_idx holds {found}" in message
    assert "expected groups 0 to 3" in message


def test_groups_of_unequal_size_are_refused() -> None:
    stored = _stored(ACT_ORDER)
    first = int((stored["g_idx"] != 0).nonzero()[0])
    stored["g_idx"][first] = 0
    assert "g_idx puts 33 inputs into group 0; expected 32" in _refused(ACT_ORDER, stored)


def test_all_inputs_in_the_first_group_are_refused_in_act_order() -> None:
    stored = _stored(ACT_ORDER)
    stored["g_idx"].zero_()
    assert "g_idx puts 128 inputs into group 0; expected 32" in _refused(ACT_ORDER, stored)


def test_the_last_group_may_be_shorter_in_act_order() -> None:
    layout = GptqLayout(bits=4, group=48, act_order=True)
    weight = Draw().ints(ROWS, COLUMNS, 4, 48, act_order=True)
    again = layout.read(layout.write(weight), ROWS, COLUMNS)
    assert torch.equal(again.dense(), weight.dense())


def test_a_symmetric_weight_may_be_written_with_zero_points() -> None:
    weight = Draw().ints(ROWS, COLUMNS, 4, 32)
    stored = GptqLayout(bits=4, group=32, symmetric=False).write(weight)
    zero = GptqLayout(bits=4, group=32, symmetric=False).read(stored, ROWS, COLUMNS).zero
    assert zero is not None
    assert set(zero.flatten().tolist()) == {8}
    assert torch.equal(stored["qzeros"], IN_ORDER.write(weight)["qzeros"])


def test_people_read_what_the_layout_is() -> None:
    layout = GptqLayout(bits=3, group=128, version=2, symmetric=False, act_order=True)
    assert layout.name == "gptq 3 bit, groups of 128, zero points, act order, version 2"
    assert GptqLayout(bits=4).name == "gptq 4 bit, one group"
