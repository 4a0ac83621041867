"""What a model's directory says of its quantization, in every spelling that packers use."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aweigh_runtime.failures import ModelUnreadable, StartFailure, UnsupportedModel
from aweigh_runtime.formats.awq import AwqLayout
from aweigh_runtime.formats.checkpoint import read_quantization
from aweigh_runtime.formats.gptq_layout import GptqLayout
from aweigh_runtime.formats.layout import Layout, Quantization
from aweigh_runtime.formats.marlin24 import GPTQ_NAMES, Marlin24Layout

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
UP = "model.layers.3.mlp.up_proj"
Q = "model.layers.3.self_attn.q_proj"
HEAD = "lm_head"


def _found(directory: Path, config: dict[str, Any], **changes: Any) -> Quantization:
    values = {name: value for name, value in (config | changes).items() if value != "absent"}
    (directory / "config.json").write_text(json.dumps({"quantization_config": values}))
    found = read_quantization(directory)
    assert found is not None
    return found


def _layout(directory: Path, config: dict[str, Any], **changes: Any) -> Layout | None:
    return _found(directory, config, **changes).layout_of(UP)


def test_a_dense_model_has_no_quantization(tmp_path: Path) -> None:
    assert read_quantization(tmp_path) is None
    (tmp_path / "config.json").write_text('{"quantization_config": null}')
    assert read_quantization(tmp_path) is None


@pytest.mark.parametrize(
    ("changes", "layout"),
    [
        ({}, GptqLayout(bits=4, group=128)),
        ({"bits": 2, "group_size": 64}, GptqLayout(bits=2, group=64)),
        ({"bits": 3, "group_size": -1}, GptqLayout(bits=3)),
        ({"desc_act": True, "static_groups": True}, GptqLayout(bits=4, group=128, act_order=True)),
        ({"sym": False}, GptqLayout(bits=4, group=128, symmetric=False)),
        ({"sym": "absent", "desc_act": "absent"}, GptqLayout(bits=4, group=128)),
        ({"checkpoint_format": "gptq"}, GptqLayout(bits=4, group=128)),
        ({"checkpoint_format": "gptq_v2"}, GptqLayout(bits=4, group=128, version=2)),
        ({"format": "gptq_v2", "pack_dtype": "int32"}, GptqLayout(bits=4, group=128, version=2)),
        (
            {
                "quant_method": "absent",
                "method": "gptq",
                "format": "gptq",
                "is_marlin_format": False,
            },
            GptqLayout(bits=4, group=128),
        ),
        ({"checkpoint_format": "marlin_24"}, Marlin24Layout(bits=4, group=128)),
        ({"is_marlin_24_format": True, "group_size": -1, "bits": 8}, Marlin24Layout(bits=8)),
        ({"quant_method": "gptq_marlin_24"}, Marlin24Layout(bits=4, group=128, names=GPTQ_NAMES)),
    ],
)
def test_gptq_is_read_in_every_spelling(
    changes: dict[str, Any], layout: Layout, tmp_path: Path
) -> None:
    assert _layout(tmp_path, GPTQ, **changes) == layout


@pytest.mark.parametrize(
    ("changes", "layout"),
    [
        ({}, AwqLayout(group=128)),
        ({"version": "GEMM", "group_size": -1}, AwqLayout()),
        ({"zero_point": False}, AwqLayout(group=128, symmetric=True)),
        ({"version": "absent", "zero_point": "absent"}, AwqLayout(group=128)),
        ({"version": "absent", "checkpoint_format": "gemm"}, AwqLayout(group=128)),
        (
            {"bits": "absent", "group_size": "absent", "w_bit": 4, "q_group_size": 64},
            AwqLayout(group=64),
        ),
    ],
)
def test_awq_is_read_in_every_spelling(
    changes: dict[str, Any], layout: Layout, tmp_path: Path
) -> None:
    assert _layout(tmp_path, AWQ, **changes) == layout


def test_what_is_found_is_named_for_people_and_for_the_spec(tmp_path: Path) -> None:
    found = _found(tmp_path, GPTQ, desc_act=True, dynamic={"-:lm_head": {}, "+:.*up": {"bits": 8}})
    assert found.scheme == "gptq"
    assert found.description == "gptq 4 bit, groups of 128, act order, 2 rules for modules"
    assert _found(tmp_path, AWQ).scheme == "awq"
    assert _found(tmp_path, GPTQ, checkpoint_format="marlin_24").scheme == "marlin24"


@pytest.mark.parametrize(
    ("name", "content", "layout"),
    [
        (
            "quantize_config.json",
            {"bits": 8, "group_size": 32, "desc_act": True, "damp_percent": 0.01},
            GptqLayout(bits=8, group=32, act_order=True),
        ),
        ("quantize_config.json", AWQ, AwqLayout(group=128)),
        (
            "quant_config.json",
            {"zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM"},
            AwqLayout(group=128),
        ),
    ],
)
def test_side_files_are_read_where_the_config_says_nothing(
    name: str, content: dict[str, Any], layout: Layout, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_text(json.dumps(content))
    found = read_quantization(tmp_path)
    assert found is not None
    assert found.layout_of(UP) == layout


def test_the_config_counts_more_than_side_files(tmp_path: Path) -> None:
    (tmp_path / "quantize_config.json").write_text("not even JSON")
    assert _layout(tmp_path, GPTQ) == GptqLayout(bits=4, group=128)


def test_the_old_name_of_the_config_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"compression_config": GPTQ}))
    found = read_quantization(tmp_path)
    assert found is not None
    assert found.layout_of(UP) == GptqLayout(bits=4, group=128)


def test_what_lies_in_no_layer_is_dense_unless_the_config_takes_the_head_in(tmp_path: Path) -> None:
    for config in (GPTQ, AWQ, GPTQ | {"checkpoint_format": "marlin_24"}):
        found = _found(tmp_path, config)
        assert found.layout_of(HEAD) is None
        assert found.layout_of("model.embed_tokens") is None
    found = _found(tmp_path, GPTQ, lm_head=True)
    assert found.layout_of(HEAD) == found.layout_of(UP)
    assert found.layout_of("model.embed_tokens") is None
    found = _found(tmp_path, GPTQ, lm_head=True, dynamic={"-:lm_head": {}})
    assert found.layout_of(HEAD) is None


def test_the_first_rule_that_matches_the_beginning_of_a_name_counts(tmp_path: Path) -> None:
    dynamic = {
        r"-:.*\.3\.self_attn": {},
        r"+:model\.layers\.3\.mlp": {"bits": 8, "group_size": 32, "desc_act": True},
        r".*\.4\..*up": {"sym": False, "checkpoint_format": "gptq_v2"},
        r".*proj": {"bits": 2},
        r"up_proj": {"bits": 3},
    }
    found = _found(tmp_path, GPTQ, dynamic=dynamic)
    assert found.layout_of(Q) is None
    assert found.layout_of(UP) == GptqLayout(bits=8, group=32, act_order=True)
    assert found.layout_of("model.layers.4.mlp.up_proj") == GptqLayout(
        bits=4, group=128, symmetric=False, version=2
    )
    assert found.layout_of("model.layers.5.mlp.up_proj") == GptqLayout(bits=2, group=128)
    assert found.layout_of("model.layers.5.other") == GptqLayout(bits=4, group=128)


@pytest.mark.parametrize(
    "listed",
    [["mlp.up_proj", "mlp.down_proj"], [["mlp.up_proj"], ["mlp.down_proj"]], [UP]],
)
def test_only_listed_modules_are_quantized(listed: list[Any], tmp_path: Path) -> None:
    found = _found(tmp_path, GPTQ, modules_in_block_to_quantize=listed)
    assert found.layout_of(UP) == GptqLayout(bits=4, group=128)
    assert found.layout_of(Q) is None
    assert found.layout_of("model.layers.3.other_mlp.up_proj") is None


def test_awq_leaves_out_every_module_with_a_word_in_its_name(tmp_path: Path) -> None:
    found = _found(tmp_path, AWQ, modules_to_not_convert=["self_attn", "layers.7."])
    assert found.layout_of(Q) is None
    assert found.layout_of("model.layers.7.mlp.up_proj") is None
    assert found.layout_of(UP) == AwqLayout(group=128)
    assert _layout(tmp_path, AWQ, modules_to_not_convert=None) == AwqLayout(group=128)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (GPTQ, {"quant_method": "bitsandbytes"}, "quant_method 'bitsandbytes' .* supported: awq, "),
        (GPTQ, {"quant_method": "marlin"}, "quant_method 'marlin' is not supported"),
        (GPTQ, {"bits": 5}, "bits '5' is not supported; supported: 2, 3, 4, 8"),
        (GPTQ, {"checkpoint_format": "gptq_p"}, "format 'gptq_p' .* gptq, gptq_v2, marlin_24"),
        (GPTQ, {"checkpoint_format": "marlin"}, "checkpoint_format 'marlin' is not supported"),
        (GPTQ, {"is_marlin_format": True}, "checkpoint_format 'marlin' is not supported"),
        (GPTQ, {"format": "bitblas"}, "quantization_config.format 'bitblas' is not supported"),
        (GPTQ, {"pack_dtype": "int16"}, "pack_dtype 'int16' is not supported; supported: int32"),
        (GPTQ, {"dynamic": {".*": {"bits": 6}}}, "dynamic.*bits '6' is not supported"),
        (GPTQ, {"dynamic": {".*": {"format": "gptq_p"}}}, "format 'gptq_p' is not supported"),
        (AWQ, {"bits": 8}, "bits '8' is not supported; supported: 4"),
        (AWQ, {"version": "gemv"}, "version 'gemv' is not supported; supported: gemm"),
        (AWQ, {"version": "gemv_fast"}, "version 'gemv_fast' is not supported"),
        (AWQ, {"version": "llm-awq"}, "version 'llm-awq' is not supported"),
        (AWQ, {"version": "marlin"}, "version 'marlin' is not supported"),
        (GPTQ, {"checkpoint_format": "marlin_24", "bits": 2}, "bits '2' .* supported: 4, 8"),
        (GPTQ, {"checkpoint_format": "marlin_24", "group_size": 64}, "group_size '64' is not"),
        (GPTQ, {"checkpoint_format": "marlin_24", "sym": False}, "sym 'false' is not supported"),
        (GPTQ, {"checkpoint_format": "marlin_24", "desc_act": True}, "desc_act 'true' is not"),
    ],
)
def test_a_variant_that_is_not_read_is_refused_with_what_is(
    config: dict[str, Any], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        _found(tmp_path, config, **changes)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (GPTQ, {"quant_method": "absent"}, "lacks quantization_config.quant_method"),
        (GPTQ, {"quant_method": 4}, "quant_method is 4; expected a string"),
        (GPTQ, {"bits": "absent"}, "lacks quantization_config.bits"),
        (GPTQ, {"bits": "4"}, 'bits is "4"; expected a whole number'),
        (GPTQ, {"group_size": "absent"}, "lacks quantization_config.group_size"),
        (GPTQ, {"group_size": 0}, "group_size is 0; expected -1, or 1 or more"),
        (GPTQ, {"group_size": -2}, "group_size is -2; expected a whole number from -1"),
        (GPTQ, {"desc_act": "no"}, 'desc_act is "no"; expected true or false'),
        (
            GPTQ,
            {"checkpoint_format": "gptq", "format": "gptq_v2"},
            'format is "gptq_v2"; expected "gptq", as checkpoint_format says',
        ),
        (GPTQ, {"dynamic": {"a": 3}}, "dynamic.a is 3; expected an object"),
        (GPTQ, {"dynamic": ["a"]}, "dynamic is .* expected an object"),
        (GPTQ, {"modules_in_block_to_quantize": [3]}, "modules_in_block_to_quantize is"),
        (AWQ, {"w_bit": 8}, "w_bit is 8; expected 4, as bits says"),
        (AWQ, {"q_group_size": 64}, "q_group_size is 64; expected 128, as group_size says"),
        (AWQ, {"group_size": 0}, "group_size is 0; expected -1, or 1 or more"),
        (AWQ, {"modules_to_not_convert": "mlp"}, "modules_to_not_convert is .* a list of strings"),
    ],
)
def test_a_field_that_contradicts_or_lacks_is_refused_by_name(
    config: dict[str, Any], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelUnreadable, match=message):
        _found(tmp_path, config, **changes)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.sampled_from(["gptq", "(", "-:", "a{9"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
FIELDS = st.sampled_from([*GPTQ, *AWQ, "dynamic", "lm_head", "modules_in_block_to_quantize"])


@given(config=st.sampled_from([GPTQ, AWQ]), changes=st.dictionaries(FIELDS, JUNK, max_size=3))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_config_is_read_or_refused(
    config: dict[str, Any], changes: dict[str, Any], tmp_path: Path
) -> None:
    with contextlib.suppress(StartFailure):
        _found(tmp_path, config, **changes).layout_of(UP)


@pytest.mark.parametrize(
    ("config", "scheme"),
    [
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "fbgemm_fp8"}, "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8"),
        ({"quant_method": "modelopt_fp4", "quant_algo": "NVFP4"}, "nvfp4"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"all": {"targets": ["Linear"], "weights": {"num_bits": 8}}},
            },
            "int8",
        ),
    ],
)
def test_every_method_has_its_reader(tmp_path: Path, config: dict[str, Any], scheme: str) -> None:
    assert _found(tmp_path, config).scheme == scheme


def test_modelopts_own_file_is_read(tmp_path: Path) -> None:
    described = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(described))
    found = read_quantization(tmp_path)
    assert found is not None
    assert found.scheme == "nvfp4"
