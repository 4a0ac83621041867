from typing import Any

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.entrypoints.convert import ModelOptNvfp4Converter
from compressed_tensors.quantization import preset_name_to_scheme

from aweigh_kernels.fp4_weight import Fp4Weight, quantize, values
from aweigh_kernels.fp8_weight import Fp8Weight
from aweigh_runtime.failures import ModelUnreadable, UnsupportedModel
from aweigh_runtime.formats.layout import Layout, LayoutError
from aweigh_runtime.formats.modelopt import quantization
from tests.kernels.weights import Draw
from tests.runtime.formats.stored import fields, read, same_bits, written

MODULE = "model.layers.0.mlp.up_proj"
KV_CACHE = {"num_bits": 8, "type": "float", "dynamic": False}
ROWS, COLUMNS = 48, 128


def _layout(algorithm: str) -> Layout:
    layout = quantization(fields(quant_algo=algorithm)).layout_of(MODULE)
    assert layout is not None
    return layout


def _fp4_file() -> dict[str, torch.Tensor]:
    dense = Draw().normal(ROWS, COLUMNS)
    global_scale = (dense.abs().max() / (6 * 448)).reshape(())
    q, scale = quantize(dense, global_scale.double())
    packed = q[:, ::2] + 16 * q[:, 1::2]
    stored = {"weight": packed, "weight_scale": scale, "weight_scale_2": global_scale}
    return stored | {"input_scale": torch.tensor(0.0021)}


@pytest.mark.parametrize(
    ("values_", "scheme"),
    [
        ({"quant_algo": "FP8"}, "fp8"),
        ({"quant_algo": "fp8_per_channel_per_token"}, "fp8"),
        ({"quant_algo": "NVFP4", "group_size": 16}, "nvfp4"),
        ({"quant_method": "modelopt_fp4", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}, "fp8"),
    ],
)
def test_both_files_name_the_scheme(values_: dict[str, Any], scheme: str) -> None:
    found = quantization(fields(**values_))

    assert found.scheme == scheme
    assert found.layout_of(MODULE) is not None
    assert found.layout_of("model.embed_tokens") is None


@pytest.mark.parametrize(
    ("values_", "scheme"),
    [
        ({}, None),
        ({"kv_cache_quant_algo": None}, None),
        ({"kv_cache_quant_algo": "FP8"}, "fp8"),
        ({"kv_cache_scheme": KV_CACHE}, "fp8"),
    ],
)
def test_keys_and_values_in_8_bits_are_seen(values_: dict[str, Any], scheme: str | None) -> None:
    assert quantization(fields(quant_algo="FP8", **values_)).kv_cache_scheme == scheme


@pytest.mark.parametrize(
    ("excluded", "module", "dense"),
    [
        ("lm_head", "lm_head", True),
        ("lm_head", MODULE, False),
        ("*lm_head*", "lm_head", True),
        ("model.layers.0*", MODULE, True),
        ("model.layers.0.mlp", MODULE, True),
        ("model.layers.*.self_attn*", "model.layers.3.self_attn.q_proj", True),
        ("model.layers.*.self_attn*", MODULE, False),
    ],
)
@pytest.mark.parametrize("name", ["exclude_modules", "ignore"])
def test_excluded_modules_are_dense(name: str, excluded: str, module: str, dense: bool) -> None:
    found = quantization(fields(**{"quant_algo": "FP8", name: [excluded]}))

    assert (found.layout_of(module) is None) is dense


def test_mixed_files_name_each_module() -> None:
    layers = {
        MODULE: {"quant_algo": "NVFP4", "group_size": 16},
        "model.layers.0.self_attn.q_proj": {"quant_algo": "FP8"},
        "lm_head": {"quant_algo": "FP8"},
    }
    found = quantization(
        fields(quant_algo="MIXED_PRECISION", quantized_layers=layers, exclude_modules=["lm_head"])
    )
    names = {
        module: layout.name if (layout := found.layout_of(module)) else None
        for module in (*layers, "model.layers.0.mlp.down_proj")
    }

    assert found.scheme == "mixed"
    assert list(names.values()) == [
        "nvfp4, activations in nvfp4",
        "fp8 per tensor, activations static",
        None,
        None,
    ]


@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
def test_fp8_is_read(shape: tuple[int, ...]) -> None:
    q = Draw().normal(ROWS, COLUMNS).mul_(50).to(torch.float8_e4m3fn)
    stored = {"weight": q, "weight_scale": torch.full(shape, 0.02)}
    stored["input_scale"] = torch.full(shape, 0.5)
    weight = read(_layout("FP8"), stored, ROWS, COLUMNS)

    assert isinstance(weight, Fp8Weight)
    assert weight.activation is not None
    assert weight.activation.rounding == "static"
    assert torch.equal(weight.dense(), q.float() * torch.tensor(0.02))


def test_fp8_with_a_scale_for_each_row_is_read() -> None:
    q, scale = Draw().normal(ROWS, COLUMNS).to(torch.float8_e4m3fn), Draw(1).scales(ROWS)
    layout = _layout("FP8_PER_CHANNEL_PER_TOKEN")
    weight = read(layout, {"weight": q, "weight_scale": scale}, ROWS, COLUMNS)

    assert torch.equal(weight.dense(), q.float() * scale[:, None])


def test_nvfp4_is_read_number_by_number() -> None:
    stored = _fp4_file()
    dense = read(_layout("NVFP4"), stored, ROWS, COLUMNS).dense()
    low, high = stored["weight"] & 15, stored["weight"] >> 4

    for column in range(COLUMNS):
        scale = stored["weight_scale"][:, column // 16].float() * stored["weight_scale_2"]
        codes = (high if column % 2 else low)[:, column // 2]
        assert torch.equal(dense[:, column], values(codes) * scale)


def test_nvfp4_is_written_as_it_was_read() -> None:
    stored, layout = _fp4_file(), _layout("NVFP4")
    again = written(layout, read(layout, stored, ROWS, COLUMNS))

    assert set(again) == set(stored)
    for name, tensor in again.items():
        assert same_bits(tensor.reshape(stored[name].shape), stored[name]), name


def test_the_library_converts_nvfp4_to_what_we_read_from_it() -> None:
    stored = _fp4_file()
    converted = ModelOptNvfp4Converter(targets=["m"]).process(
        {f"m.{name}": tensor.clone() for name, tensor in stored.items()}
    )
    state = {name.removeprefix("m."): tensor for name, tensor in converted.items()}
    compressor = BaseCompressor.get_value_from_registry("nvfp4-pack-quantized")
    theirs = compressor.decompress(state, preset_name_to_scheme("NVFP4", ["Linear"]))["weight"]
    ours = read(_layout("NVFP4"), stored, ROWS, COLUMNS).dense()

    # The inverse of the global scale is rounded on the way.
    assert torch.allclose(ours.to(theirs.dtype), theirs, rtol=2.0**-7, atol=0)


@pytest.mark.parametrize(
    ("values_", "sentence"),
    [
        ({"quant_algo": "W4A8_AWQ"}, "quant_algo 'W4A8_AWQ' is not supported; supported: FP8,"),
        ({"quant_algo": "NVFP4_AWQ"}, "quant_algo 'NVFP4_AWQ'"),
        ({"quant_algo": "FP8_PB_WO"}, "quant_algo 'FP8_PB_WO'"),
        ({"quantization": {"quant_algo": "INT4_AWQ"}}, "quantization.quant_algo 'INT4_AWQ'"),
        ({"quant_algo": "NVFP4", "group_size": 32}, "group_size '32'"),
        ({"quant_algo": "FP8", "kv_cache_quant_algo": "NVFP4"}, "kv_cache_quant_algo 'NVFP4'"),
        ({"quant_algo": "FP8", "kv_cache_scheme": KV_CACHE | {"num_bits": 4}}, "'float4 by"),
        ({"quant_algo": "MIXED_PRECISION"}, "MIXED_PRECISION without quantized_layers"),
        (
            {
                "quant_algo": "MIXED_PRECISION",
                "quantized_layers": {MODULE: {"quant_algo": "W4A16_AWQ"}},
            },
            f"quantized_layers.{MODULE}.quant_algo 'W4A16_AWQ'",
        ),
    ],
)
def test_what_is_not_read_is_refused_by_name(values_: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UnsupportedModel, match=sentence):
        quantization(fields(**values_))


def test_a_file_without_an_algorithm_is_refused() -> None:
    with pytest.raises(ModelUnreadable, match="lacks quant_algo"):
        quantization(fields(quant_method="modelopt"))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("weight_scale_2", 0.0, "weight_scale_2 is 0"),
        ("weight_scale_2", float("nan"), "weight_scale_2 is nan"),
        ("weight_scale_2", float("inf"), "weight_scale_2 is inf"),
        ("input_scale", 0.0, "input_scale is 0"),
        ("weight_scale", 0.0, "weight_scale holds 0 where the weights are not 0"),
        ("weight_scale", float("nan"), "weight_scale holds NaN or infinity"),
    ],
)
def test_scales_that_no_file_has_are_refused(name: str, value: float, sentence: str) -> None:
    stored = _fp4_file()
    stored[name] = torch.full(stored[name].shape, value).to(stored[name].dtype)
    with pytest.raises(LayoutError, match=sentence):
        read(_layout("NVFP4"), stored, ROWS, COLUMNS)


def test_a_global_scale_that_no_file_holds_is_refused() -> None:
    weight = read(_layout("NVFP4"), _fp4_file(), ROWS, COLUMNS)
    assert isinstance(weight, Fp4Weight)
    third = Fp4Weight(
        q=weight.q,
        scale=weight.scale,
        global_scale=torch.full((1, 1), 1 / 3).double() / 7,
        activation_scale=weight.activation_scale,
    )
    with pytest.raises(LayoutError, match="is no fp32 number; round it before quantizing"):
        _layout("NVFP4").write(third)


def test_columns_that_are_no_whole_groups_are_refused() -> None:
    with pytest.raises(LayoutError, match="24 columns are no whole groups of 16"):
        _layout("NVFP4").parts(8, 24)
