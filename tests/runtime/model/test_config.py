import json
from pathlib import Path
from typing import Any

import pytest

from aweigh_runtime.failures import ModelNotFound, ModelUnreadable, UnsupportedModel
from aweigh_runtime.model.config import Llama3Scaling, ModelConfig, Rope, read_config

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "bfloat16",
}
SCALING = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def _read(tmp_path: Path, **changes: Any) -> ModelConfig:
    values = {key: value for key, value in (LLAMA | changes).items() if value != "absent"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    return read_config(tmp_path)


def test_what_a_config_leaves_out_has_the_value_that_llama_gives_it(tmp_path: Path) -> None:
    config = _read(tmp_path, num_key_value_heads=None, rms_norm_eps="absent")

    assert config.num_kv_heads == config.num_heads == 32
    assert config.head_dim == 128
    assert config.rms_norm_eps == 1e-6
    assert config.rope == Rope(theta=10_000.0, scaling=None)
    assert not config.tie_word_embeddings
    assert not config.attention_bias
    assert not config.mlp_bias


def test_the_number_format_is_read_under_its_old_and_new_name(tmp_path: Path) -> None:
    assert _read(tmp_path).dtype == "bfloat16"
    assert _read(tmp_path, dtype="float16").dtype == "float16"
    assert _read(tmp_path, torch_dtype="torch.float32").dtype == "float32"
    assert _read(tmp_path, torch_dtype="absent").dtype is None


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", **SCALING}},
        {"rope_theta": 500000, "rope_scaling": {"type": "llama3", **SCALING}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **SCALING}},
    ],
)
def test_scaled_positions_are_read_from_old_and_new_configs(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert _read(tmp_path, **changes).rope == Rope(
        theta=500_000.0, scaling=Llama3Scaling(8.0, 1.0, 4.0, 8192)
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM is not supported; supported:"),
        ({"architectures": []}, "architecture not given is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported; supported: silu"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
            "rope_scaling type 'yarn' is not supported; supported: default, llama3",
        ),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    ],
)
def test_what_is_not_built_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UnsupportedModel, match=sentence):
        _read(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architectures": "LlamaForCausalLM"}, "expected a list of strings"),
        ({"architectures": "absent"}, "lacks architectures"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0; expected a whole number from 1"),
        ({"num_attention_heads": -32}, "num_attention_heads is -32"),
        ({"num_attention_heads": 24}, r"hidden_size \(4096\) must be a multiple"),
        ({"num_key_value_heads": 5}, "must be a multiple of num_key_value_heads"),
        ({"num_key_value_heads": 64}, "num_key_value_heads is 64; expected .* from 1 to 32"),
        ({"head_dim": 63}, "head_dim is 63; rotary embedding needs it even"),
        ({"hidden_size": "4096"}, 'hidden_size is "4096"'),
        ({"hidden_size": 4096.5}, "hidden_size is 4096.5"),
        ({"hidden_size": True}, "hidden_size is true"),
        ({"hidden_size": 10**30}, "hidden_size is 1000"),
        ({"vocab_size": "absent"}, "lacks vocab_size, which must be given"),
        ({"intermediate_size": None}, "lacks intermediate_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"rms_norm_eps": "small"}, 'rms_norm_eps is "small"; expected a number'),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is NaN"),
        ({"rope_theta": -1}, "rope_theta is -1"),
        ({"rope_scaling": "llama3"}, 'rope_scaling is "llama3"; expected an object'),
        ({"rope_scaling": {"rope_type": "llama3"}}, r"lacks rope_scaling\.low_freq_factor"),
        (
            {"rope_scaling": {"rope_type": "llama3", **SCALING, "high_freq_factor": 1.0}},
            r"high_freq_factor \(1\) must be above",
        ),
        ({"tie_word_embeddings": "yes"}, 'tie_word_embeddings is "yes"; expected true or false'),
        ({"torch_dtype": 16}, "torch_dtype is 16; expected a string"),
    ],
)
def test_impossible_values_are_refused_with_what_was_expected(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelUnreadable, match=sentence):
        _read(tmp_path, **changes)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "holds a list; expected a JSON object"),
        (b"null", "holds null"),
        (b'"config"', "holds a string"),
        (b"3", "holds a number"),
    ],
)
def test_a_config_that_is_no_json_object_is_refused(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelUnreadable, match=sentence):
        read_config(tmp_path)


def test_a_directory_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnreadable, match=r"has no config\.json"):
        read_config(tmp_path)
    with pytest.raises(ModelNotFound, match="there is no directory"):
        read_config(tmp_path / "missing")
