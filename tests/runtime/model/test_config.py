import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from aweigh_runtime.failures import ModelNotFound, ModelUnreadable, StartFailure, UnsupportedModel
from aweigh_runtime.model.architectures import read_config
from aweigh_runtime.model.config import (
    LayerConfig,
    LinearScaling,
    Llama3Scaling,
    ModelConfig,
    Rope,
    YarnScaling,
)
from aweigh_runtime.model.shards import SINGLE
from tests.runtime.model.checkpoints import (
    load_decoder,
    new_cache,
    random_tokens,
    step,
    write_family,
)
from tests.runtime.model.families import FAMILIES

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


_QWEN = {"architectures": ["Qwen2ForCausalLM"]}
_GEMMA = {"architectures": ["Gemma3ForCausalLM"]}
_PHI = {"architectures": ["Phi3ForCausalLM"]}
_MIXTRAL = {"architectures": ["MixtralForCausalLM"]}


def _read(tmp_path: Path, **changes: Any) -> ModelConfig:
    values = {key: value for key, value in (LLAMA | changes).items() if value != "absent"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    return read_config(tmp_path)


def test_what_a_config_leaves_out_has_the_value_that_llama_gives_it(tmp_path: Path) -> None:
    config = _read(tmp_path, num_key_value_heads=None, rms_norm_eps="absent")

    assert config.num_kv_heads == config.num_heads == 32
    assert config.head_dim == 128
    assert config.rms_norm_eps == 1e-6
    assert config.layers == (LayerConfig(Rope(10_000.0, 128), 14336),) * 32
    assert not config.tie_word_embeddings
    assert not config.qkv_bias
    assert not config.out_bias
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
    assert _read(tmp_path, **changes).layers[0].rope == Rope(
        500_000.0, 128, Llama3Scaling(8.0, 1.0, 4.0, 8192)
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM is not supported; supported:"),
        ({"architectures": []}, "architecture not given is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported; supported: silu"),
        (
            {"rope_scaling": {"rope_type": "mrope", "factor": 4.0}},
            "rope_type 'mrope' is not supported; supported: default, linear, dynamic, llama3, yarn",
        ),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            "rope_parameters that differ by layer",
        ),
        (
            _QWEN | {"layer_types": ["linear_attention"] * 32},
            "layer_types 'linear_attention' is not supported; supported: full_attention, sliding",
        ),
        (_GEMMA | {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (_GEMMA | {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        (
            {"architectures": ["Phi3ForCausalLM"], "rope_scaling": {"type": "linear"}},
            "rope_type 'linear' is not supported; supported: default, longrope",
        ),
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
        (
            {"rope_scaling": {"rope_type": "linear"}},
            r"lacks rope_scaling\.factor, which must be given",
        ),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2, "truncate": 1}},
            r"rope_scaling\.truncate is 1; expected true or false",
        ),
        (
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2}, "head_dim": 2},
            "head_dim is 2; dynamic scaling needs at least 4",
        ),
        (_QWEN | {"layer_types": ["full_attention"]}, "has 1 entries; expected one for each of 32"),
        (
            _QWEN | {"layer_types": ["sliding_attention"] * 32},
            "layer_types has sliding_attention, but sliding_window is not given or not used",
        ),
        (
            _PHI | {"rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": [1.0]}},
            r"rope_scaling\.short_factor is \[1\.0\]; expected 64 numbers",
        ),
        (_PHI | {"partial_rotary_factor": 0.0}, "turns 0 of 128 values of a head"),
        (_MIXTRAL | {"num_local_experts": 2, "num_experts_per_tok": 3}, "from 1 to 2"),
        (_MIXTRAL | {"sliding_window": 0}, "sliding_window is 0"),
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
        (rb'{"architectures": ["\ud800"]}', "half a surrogate pair"),
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


def _aged(config: dict[str, Any]) -> dict[str, Any]:
    """What older versions of transformers wrote, and what most published checkpoints hold."""
    old = dict(config)
    rope = dict(old.pop("rope_parameters"))
    old["torch_dtype"] = old.pop("dtype")
    if "full_attention" in rope:
        old["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = dict(rope["full_attention"])
        old["sliding_window_pattern"] = 2
    old.pop("layer_types", None)
    old["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    rope.pop("partial_rotary_factor", None)
    if kind != "default":
        old["rope_scaling"] = {"type": kind, **rope}
    if "num_local_experts" in old and "moe_intermediate_size" in old:
        old["num_experts"] = old.pop("num_local_experts")
    return old


@pytest.mark.parametrize(
    "family",
    [
        "Llama 3",
        "Llama, linear",
        "Llama, yarn with every key",
        "Mistral",
        "Qwen 2 with windows in later layers",
        "Qwen 3",
        "Phi-4-mini",
        "Gemma 2",
        "Gemma 3",
        "Mixtral",
        "Qwen 3 MoE with plain layers",
    ],
)
def test_old_and_new_configs_of_a_model_say_the_same(family: str, tmp_path: Path) -> None:
    new = read_config(write_family(tmp_path, FAMILIES[family][0], **FAMILIES[family][1]))
    path = tmp_path / "config.json"
    old = _aged(json.loads(path.read_text()))
    path.write_text(json.dumps(old))

    assert "rope_parameters" not in old
    assert read_config(tmp_path) == new


@pytest.mark.parametrize("kind", ["su", "yarn"])
def test_early_names_of_the_scaling_of_phi_are_known(kind: str, tmp_path: Path) -> None:
    model_type, shape = FAMILIES["Phi-4-mini"]
    new = read_config(write_family(tmp_path, model_type, **shape))
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["rope_parameters"]["rope_type"] = kind
    path.write_text(json.dumps(config))

    assert read_config(tmp_path) == new


@pytest.mark.parametrize(
    ("scaling", "positions"),
    [
        ({"rope_type": "linear", "factor": 2.5}, 10_000),
        ({"rope_type": "dynamic", "factor": 2.5}, 10_000),
        ({"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 4000}, 16_000),
        ({"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 1000}, 4000),
        ({"rope_type": "llama3", **SCALING}, 4000),
        (None, 4000),
    ],
)
def test_scaling_says_how_many_tokens_a_model_was_made_for(
    tmp_path: Path, scaling: Any, positions: int
) -> None:
    config = _read(tmp_path, max_position_embeddings=4000, rope_scaling=scaling)

    assert config.max_positions == positions


def test_what_yarn_leaves_out_has_the_values_of_its_paper(tmp_path: Path) -> None:
    config = _read(tmp_path, rope_scaling={"type": "yarn", "factor": 4.0})

    scaling = config.layers[0].rope.scaling
    assert isinstance(scaling, YarnScaling)
    assert (scaling.beta_fast, scaling.beta_slow, scaling.truncate) == (32.0, 1.0, True)
    assert scaling.attention_factor == pytest.approx(1.1386, abs=1e-4)
    assert scaling.original_max_positions == 131072


def test_the_published_config_of_a_gemma_that_sees_is_read(tmp_path: Path) -> None:
    """It leaves out most of what its text part has."""
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["Gemma3ForConditionalGeneration"],
                "text_config": text,
                "torch_dtype": "bfloat16",
            }
        )
    )
    config = read_config(tmp_path)

    local = LayerConfig(Rope(10_000.0, 256), 10240, window=1024)
    everywhere = LayerConfig(Rope(1_000_000.0, 256, LinearScaling(8.0)), 10240)
    assert config.layers == (((local,) * 5 + (everywhere,)) * 6)[:34]
    assert (config.vocab_size, config.num_heads, config.num_kv_heads) == (262_208, 8, 4)
    assert config.max_positions == 131_072
    assert config.dtype == "bfloat16"
    assert config.tie_word_embeddings


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 2**31, 10**30, 10**400])
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["yarn", "linear", "dynamic", "longrope", "sliding_attention"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
ROPE_FIELDS = [
    "rope_type",
    "type",
    "factor",
    "rope_theta",
    "low_freq_factor",
    "high_freq_factor",
    "attention_factor",
    "mscale",
    "original_max_position_embeddings",
    "beta_fast",
    "beta_slow",
    "truncate",
    "mscale_all_dim",
    "short_factor",
    "long_factor",
    "partial_rotary_factor",
    "full_attention",
    "sliding_attention",
]
OTHER_FIELDS = [
    "torch_dtype",
    "rope_theta",
    "rope_local_base_freq",
    "sliding_window_pattern",
    "layer_types",
    "head_dim",
    "partial_rotary_factor",
    "text_config",
    "num_experts",
    "hidden_activation",
]
SUITABLE: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        *({"rope_type": kind, "factor": 2.0} for kind in ("linear", "dynamic", "yarn")),
        {"rope_type": "llama3", **SCALING},
        {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
    ]
)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("checkpoints")
    return [
        write_family(home / name, *FAMILIES[name][:1], **FAMILIES[name][1])
        for name in ("Llama 3", "Phi-4-mini", "Qwen 2", "Gemma 2", "Gemma 3", "Qwen 3 MoE")
    ]


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_values_in_a_config_give_a_model_or_a_start_failure(
    checkpoints: list[Path], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = data.draw(st.sampled_from(checkpoints))
    config = json.loads((directory / "config.json").read_text())
    names = st.sampled_from([*config, *OTHER_FIELDS])
    config |= data.draw(st.dictionaries(names, JSON, max_size=3))
    for name in data.draw(st.sets(st.sampled_from(["rope_scaling", "rope_parameters"]))):
        base: dict[str, Any] = data.draw(st.just({}) | SUITABLE)
        config[name] = base | data.draw(
            st.dictionaries(st.sampled_from(ROPE_FIELDS), JSON, max_size=3)
        )
    broken = tmp_path_factory.mktemp("broken")
    (broken / SINGLE).hardlink_to(directory / SINGLE)
    (broken / "config.json").write_text(json.dumps(config))
    try:
        decoder = load_decoder(broken)
    except StartFailure as failure:
        event("refused")
        sentence = failure.termination().to_json().encode()  # which a pod must be able to write
    else:
        event("loaded")
        prompt = random_tokens(1, 3, decoder.config.vocab_size)
        assert len(step(decoder, new_cache(decoder, 1), [(0, 0, prompt)])) == 1
        sentence = b""
    assert len(sentence) < 2000
