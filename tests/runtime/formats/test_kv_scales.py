import pytest
import torch

from aweigh_runtime.formats.kv_scales import kv_scale_names, read_kv_scale
from aweigh_runtime.formats.layout import LayoutError

ATTENTION = "model.layers.3.self_attn"


@pytest.mark.parametrize(
    ("name", "scaled"),
    [
        ("k_scale", ("key",)),
        ("v_scale", ("value",)),
        ("kv_scale", ("key", "value")),
        ("attn.k_scale", ("key",)),
        ("k_proj.k_scale", ("key",)),
        ("v_proj.v_scale", ("value",)),
        ("k_proj.output_scale", ("key",)),
        ("v_proj.output_scale", ("value",)),
        ("qkv_proj.v_scale", ("value",)),
        ("q_scale", ()),
        ("prob_scale", ()),
    ],
)
def test_scales_of_keys_and_values_are_known_by_all_their_names(
    name: str, scaled: tuple[str, ...]
) -> None:
    assert kv_scale_names(ATTENTION)[f"{ATTENTION}.{name}"] == scaled


def test_no_other_tensor_is_taken_for_one() -> None:
    named = kv_scale_names(ATTENTION)
    for name in ("k_proj.weight_scale", "k_proj.input_scale", "o_proj.output_scale", "k_proj"):
        assert f"{ATTENTION}.{name}" not in named
    assert "model.layers.4.self_attn.k_scale" not in named


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
def test_a_scale_is_read_from_any_shape(shape: tuple[int, ...]) -> None:
    assert read_kv_scale("k_scale", torch.full(shape, 0.5, dtype=torch.bfloat16)) == 0.5


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_no_file_has_is_refused(value: float) -> None:
    with pytest.raises(LayoutError, match=r"k_scale is .*; expected a finite number above 0"):
        read_kv_scale("k_scale", torch.tensor(value))


def test_a_scale_for_each_head_is_refused() -> None:
    with pytest.raises(LayoutError, match="k_scale has 8 numbers; expected 1"):
        read_kv_scale("k_scale", torch.ones(8))
