from typing import Any

import pytest
import torch

from aweigh_kernels.fp8_weight import Fp8Weight
from aweigh_kernels.weight import reference
from aweigh_runtime.failures import ModelUnreadable, UnsupportedModel
from aweigh_runtime.formats.fp8 import quantization
from aweigh_runtime.formats.layout import Layout, LayoutError
from tests.kernels.weights import Draw
from tests.runtime.formats.stored import fields, read

MODULE = "model.layers.0.mlp.up_proj"
ROWS, COLUMNS = 160, 320


def _layout(**values: Any) -> Layout:
    layout = quantization(fields(**{"quant_method": "fp8"} | values)).layout_of(MODULE)
    assert layout is not None
    return layout


def _weight(dtype: torch.dtype = torch.float8_e4m3fn) -> torch.Tensor:
    return Draw().normal(ROWS, COLUMNS).mul_(50).to(dtype)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, "fp8 per tensor, activations dynamic"),
        ({"activation_scheme": "STATIC"}, "fp8 per tensor, activations static"),
        ({"weight_block_size": [128, 128]}, "fp8 per block, activations dynamic by 128"),
        (
            {"weight_block_size": [128, 128], "scale_fmt": "ue8m0", "fmt": "e4m3"},
            "fp8 per block, activations dynamic by 128",
        ),
        (
            {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0},
            "fp8 per channel, activations dynamic",
        ),
    ],
)
def test_each_scheme_is_named(values: dict[str, Any], name: str) -> None:
    found = quantization(fields(**{"quant_method": "fp8"} | values))

    assert found.scheme == "fp8"
    assert found.description == f"{values.get('quant_method', 'fp8')}: {name}"


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_one_scale_for_all_multiplies_the_weight(dtype: torch.dtype, shape: tuple[int]) -> None:
    q = _weight(dtype)
    weight = read(_layout(), {"weight": q, "weight_scale": torch.full(shape, 0.03)}, ROWS, COLUMNS)

    assert torch.equal(weight.dense(), q.float() * torch.tensor(0.03))


@pytest.mark.parametrize("shape", [(ROWS, 1), (ROWS,)], ids=str)
@pytest.mark.parametrize("method", ["fp8", "fbgemm_fp8"])
def test_a_scale_for_each_row_multiplies_it(method: str, shape: tuple[int, ...]) -> None:
    q, scale = _weight(), Draw(1).scales(*shape)
    stored = {"weight": q, "weight_scale": scale}
    weight = read(_layout(quant_method=method), stored, ROWS, COLUMNS)

    assert torch.equal(weight.dense(), q.float() * scale.reshape(-1, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_scale_of_a_block_multiplies_it_whatever_inv_says(dtype: torch.dtype) -> None:
    q, scale = _weight(), Draw(1).scales(2, 3).to(dtype)
    stored = {"weight": q, "weight_scale_inv": scale}
    dense = read(_layout(weight_block_size=[128, 128]), stored, ROWS, COLUMNS).dense()

    for row in range(0, ROWS, 128):
        for column in range(0, COLUMNS, 128):
            block = slice(row, row + 128), slice(column, column + 128)
            assert torch.equal(
                dense[block], q[block].float() * scale[row // 128, column // 128].float()
            )


@pytest.mark.parametrize("suffix", ["", "_inv"])
def test_a_static_scale_of_activations_is_read_under_both_names(suffix: str) -> None:
    name = "activation_scale" if suffix else "input_scale"
    stored = {"weight": _weight(), f"weight_scale{suffix}": torch.tensor(0.03)}
    stored[name] = torch.tensor(0.25, dtype=torch.bfloat16)
    weight = read(_layout(activation_scheme="static"), stored, ROWS, COLUMNS)

    assert isinstance(weight, Fp8Weight)
    assert weight.activation is not None
    assert weight.activation.scale is not None
    assert float(weight.activation.scale) == 0.25
    clipped = reference(torch.full((1, COLUMNS), 1000.0), weight)
    assert torch.equal(clipped, reference(torch.full((1, COLUMNS), 448 * 0.25), weight))


@pytest.mark.parametrize("blocks", [False, True])
def test_one_hot_activations_give_the_columns_exactly(blocks: bool) -> None:
    layout = _layout(**{"weight_block_size": [128, 128]} if blocks else {})
    weight = Draw().fp8(ROWS, COLUMNS, blocks=blocks)
    name = "weight_scale_inv" if blocks else "weight_scale"
    read_weight = read(layout, {"weight": weight.q, name: weight.scale}, ROWS, COLUMNS)

    # 448 is what the largest number of a token becomes: the token's scale is 1.
    columns = reference(torch.eye(COLUMNS) * 448, read_weight)
    assert torch.equal(columns, weight.dense().t() * 448)


@pytest.mark.parametrize(
    ("entries", "module", "dense"),
    [
        (["lm_head"], MODULE, False),
        ([MODULE], MODULE, True),
        (["model.layers.0"], MODULE, True),
        (["model.layers.0"], "model.layers.01.mlp.up_proj", False),
        (["up_proj"], MODULE, True),
        (["proj"], MODULE, False),
        (["mlp.gate"], "model.layers.0.mlp.gate_proj", False),
        (["model.layers.*.mlp.*"], MODULE, True),
        (["re:.*mlp"], MODULE, True),
        ([], "lm_head", True),
        ([], "model.embed_tokens", True),
        ([], "model.norm", True),
        ([], MODULE, False),
    ],
)
@pytest.mark.parametrize("name", ["ignored_layers", "modules_to_not_convert"])
def test_ignored_layers_are_dense(name: str, entries: list[str], module: str, dense: bool) -> None:
    found = quantization(fields(**{"quant_method": "fp8", name: entries}))

    assert (found.layout_of(module) is None) is dense


def test_keys_and_values_in_8_bits_are_seen() -> None:
    assert quantization(fields(quant_method="fp8")).kv_cache_scheme is None
    with_cache = fields(quant_method="fp8", kv_cache_scheme="static")
    assert quantization(with_cache).kv_cache_scheme == "fp8"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"quant_method": "fp9"}, "quant_method 'fp9' is not supported; supported: fp8, fbgemm"),
        ({"weight_block_size": [64, 64]}, r"weight_block_size \[64, 64\] with dynamic"),
        ({"weight_block_size": [128, 128], "activation_scheme": "static"}, "with static activ"),
        ({"activation_scheme": "never"}, "activation_scheme 'never'"),
        ({"kv_cache_scheme": "int8"}, "kv_cache_scheme 'int8' is not supported; supported: static"),
        ({"fmt": "e3m4"}, "fmt 'e3m4'"),
        ({"scale_fmt": "e5m3"}, "scale_fmt 'e5m3'"),
        ({"modules_to_convert": ["embed"]}, "modules_to_convert 'of tables of embeddings'"),
    ],
)
def test_what_is_not_read_is_refused_by_name(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UnsupportedModel, match=sentence):
        quantization(fields(**{"quant_method": "fp8"} | values))


def test_a_field_without_meaning_is_refused() -> None:
    with pytest.raises(ModelUnreadable, match="weight_block_size is"):
        quantization(fields(quant_method="fp8", weight_block_size="128"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weight_scale": torch.tensor(float("nan"))}, "weight_scale holds NaN or infinity"),
        ({"weight_scale": torch.tensor(float("inf"))}, "weight_scale holds NaN or infinity"),
        ({"weight_scale": torch.tensor(0.0)}, "weight_scale holds 0 where the weights are not 0"),
        ({"input_scale": torch.tensor(0.0)}, "input_scale is 0; expected a finite number above 0"),
        ({"input_scale": torch.tensor(-1.0)}, "input_scale is -1"),
        ({"input_scale": torch.tensor(float("nan"))}, "input_scale is nan"),
        ({"weight_scale_inv": torch.tensor(1.0)}, "weight_scale and weight_scale_inv is there"),
        ({"weight_scale": None}, "none is there; expected weight_scale or weight_scale_inv"),
        ({"input_scale": None}, "none is there; expected input_scale or activation_scale"),
    ],
)
def test_scales_that_no_file_has_are_refused(changes: dict[str, Any], sentence: str) -> None:
    stored: dict[str, Any] = {"weight": _weight(), "weight_scale": torch.tensor(0.1)}
    stored["input_scale"] = torch.tensor(0.1)
    given = {name: part for name, part in (stored | changes).items() if part is not None}
    with pytest.raises(LayoutError, match=sentence):
        read(_layout(activation_scheme="static"), given, ROWS, COLUMNS)


@pytest.mark.parametrize(
    ("dtype", "code"),
    [
        (torch.float8_e4m3fn, 0x7F),
        (torch.float8_e4m3fn, 0xFF),
        (torch.float8_e5m2, 0x7C),
        (torch.float8_e5m2, 0xFE),
    ],
)
def test_a_weight_that_is_no_number_is_refused(dtype: torch.dtype, code: int) -> None:
    q = _weight(dtype)
    q.view(torch.uint8)[3, 5] = code
    assert not bool(torch.isfinite(q[3, 5].float()))
    with pytest.raises(LayoutError, match="weight holds numbers that are not finite"):
        read(_layout(), {"weight": q, "weight_scale": torch.tensor(0.1)}, ROWS, COLUMNS)


def test_a_scale_of_0_is_read_where_all_weights_are_0() -> None:
    q, scale = _weight(), torch.ones(ROWS, 1)
    q.view(torch.uint8)[3] = 0
    scale[3] = 0
    assert (
        read(_layout(), {"weight": q, "weight_scale": scale}, ROWS, COLUMNS).dense()[3].eq(0).all()
    )

    q.view(torch.uint8)[3, 7] = 1
    with pytest.raises(LayoutError, match="weight_scale holds 0"):
        read(_layout(), {"weight": q, "weight_scale": scale}, ROWS, COLUMNS)
