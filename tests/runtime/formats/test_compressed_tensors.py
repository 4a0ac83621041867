import time
from typing import Any

import pytest
import torch
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

from aweigh_runtime.failures import ModelUnreadable, UnsupportedModel
from aweigh_runtime.formats.compressed_tensors import quantization
from tests.runtime.formats.stored import fields

INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}
INT8 = {"num_bits": 8, "type": "int", "strategy": "channel"}
FLOAT8 = {"num_bits": 8, "type": "float", "strategy": "channel"}
BLOCKS = {"num_bits": 8, "type": "float", "strategy": "block"}
FLOAT4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
INT_TOKEN = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}
TOKEN = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
KV_CACHE = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False}
MODULE = "model.layers.0.mlp.up_proj"


def _group(weights: Any, activations: Any = None, **more: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    return {"group_0": group | more}


def _name(module: str = MODULE, **values: Any) -> str:
    layout = quantization(fields(**values)).layout_of(module)
    return "dense" if layout is None else layout.name


@pytest.mark.parametrize(
    ("weights", "activations", "stored_as", "scheme", "name"),
    [
        (INT4, None, "pack-quantized", "int4", "int4 in groups of 128, packed"),
        (INT4 | {"num_bits": 3}, None, "pack-quantized", "int3", "int3 in groups of 128, packed"),
        (INT8, None, "pack-quantized", "int8", "int8 per channel, packed"),
        (
            INT4 | {"actorder": "group", "symmetric": False},
            None, "pack-quantized", "int4",
            "int4 in groups of 128 with zero points, packed in act order",
        ),
        (INT4 | {"actorder": True}, None, "pack-quantized", "int4",
            "int4 in groups of 128, packed in act order"),
        (INT4 | {"actorder": "static"}, None, "pack-quantized", "int4",
            "int4 in groups of 128, packed"),
        (INT8, INT_TOKEN, "int-quantized", "int8", "int8 per channel, activations dynamic"),
        (INT8 | {"strategy": "tensor"}, INT8 | {"strategy": "tensor", "symmetric": False},
            "int-quantized", "int8", "int8 per tensor, activations static with zero points"),
        (INT8, None, "naive-quantized", "int8", "int8 per channel, a byte each"),
        (FLOAT8, TOKEN, "float-quantized", "fp8", "fp8 per channel, activations dynamic"),
        (FLOAT8, None, "naive-quantized", "fp8", "fp8 per channel, activations in 16 bits"),
        (BLOCKS | {"block_structure": [128, 128]},
            TOKEN | {"strategy": "group", "group_size": 128},
            "float-quantized", "fp8", "fp8 per block, activations dynamic by 128"),
        (FLOAT4, None, "nvfp4-pack-quantized", "nvfp4", "nvfp4, activations in 16 bits"),
        (INT4, None, "marlin-24", "marlin24", "marlin-24 4 bit, groups of 128"),
        (INT8, None, "marlin-24", "marlin24", "marlin-24 8 bit, one group"),
        (FLOAT4, FLOAT4 | {"dynamic": "local"}, "nvfp4-pack-quantized", "nvfp4",
            "nvfp4, activations in nvfp4"),
    ],
)  # fmt: skip
def test_each_scheme_is_named(
    weights: Any, activations: Any, stored_as: str, scheme: str, name: str
) -> None:
    found = quantization(fields(format=stored_as, config_groups=_group(weights, activations)))

    assert found.scheme == scheme
    assert found.description == f"compressed-tensors: {name}"
    layout = found.layout_of(MODULE)
    assert layout is not None
    assert layout.name == name


def test_a_group_without_weights_or_a_module_without_a_group_is_dense() -> None:
    assert _name(config_groups=_group(None)) == "dense"
    assert _name(config_groups=_group(INT4, targets=["re:.*attn"])) == "dense"
    assert _name("model.embed_tokens", config_groups=_group(INT4)) == "dense"
    assert _name("model.layers.0.input_layernorm", config_groups=_group(INT4)) == "dense"


def test_the_embedding_is_quantized_where_its_class_is_named() -> None:
    groups = _group(INT8, targets=["Embedding"])
    assert _name("model.embed_tokens", config_groups=groups) == "int8 per channel, packed"
    assert _name(config_groups=groups) == "dense"


def test_groups_may_have_formats_of_their_own() -> None:
    groups = _group(INT4, targets=["re:.*mlp.*"], format="pack-quantized")
    groups |= {"group_1": _group(FLOAT8, TOKEN, format="float-quantized")["group_0"]}
    found = quantization(fields(format="mixed-precision", config_groups=groups))

    assert found.scheme == "mixed"
    attention = found.layout_of("model.layers.0.self_attn.q_proj")
    mlp = found.layout_of(MODULE)
    assert attention is not None
    assert mlp is not None
    assert attention.name == "fp8 per channel, activations dynamic"
    assert mlp.name == "int4 in groups of 128, packed"


def test_old_files_nest_their_config_and_are_called_frozen() -> None:
    inner = {"quantization_status": "frozen", "config_groups": _group(INT8, INT_TOKEN)}
    nested: dict[str, Any] = {"quantization_config": inner, "sparsity_config": {"format": "dense"}}

    assert _name(**nested) == "int8 per channel, activations dynamic"


def test_keys_and_values_in_8_bits_are_seen() -> None:
    config = {"config_groups": _group(FLOAT8, TOKEN), "kv_cache_scheme": KV_CACHE}
    assert quantization(fields(**config)).kv_cache_scheme == "fp8"
    assert quantization(fields(**config | {"kv_cache_scheme": None})).kv_cache_scheme is None

    # Old files also say so by the outputs of projections.
    config["config_groups"]["group_0"]["output_activations"] = KV_CACHE
    assert quantization(fields(**config)).kv_cache_scheme == "fp8"


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("q_proj", "k_proj", "gate_proj", "up_proj", "gate"):
            setattr(self, name, torch.nn.Linear(128, 128))


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(8, 128)
        self.layers = torch.nn.ModuleList(Block() for _ in range(3))
        self.lm_head = torch.nn.Linear(128, 8)


IGNORES: list[list[str]] = [
    [],
    ["lm_head"],
    ["re:.*head"],
    ["layers.1.gate", "re:layers.0.*"],
    ["re:.*gate$", "layers.1"],
    ["Linear"],
    ["re:gate"],
]
TARGETS: list[list[list[str]]] = [
    [["Linear"], ["re:.*proj", "lm_head"]],
    [["re:.*proj"], ["re:.*gate.*"], ["Linear"]],
    [["re:.*gate.*"], ["re:.*proj"], ["layers.2.gate_proj"]],
    [["Embedding", "re:.*up_proj"], ["LlamaAttention", "layers.0.k_proj"]],
    [["layers.0.q_proj", "re:.*q_proj"], ["layers.0.q_proj"]],
    [["re:(?!layers.1).*proj$"], ["Linear"]],
]


@pytest.mark.parametrize("ignore", IGNORES, ids=str)
@pytest.mark.parametrize("targets", TARGETS, ids=str)
def test_a_module_belongs_to_the_group_that_the_library_gives_it(
    ignore: list[str], targets: list[list[str]]
) -> None:
    widths = [2, 3, 4, 8]
    groups = {
        f"group_{place}": {"targets": names, "weights": INT4 | {"num_bits": widths[place]}}
        for place, names in enumerate(targets)
    }
    model = Model()
    config = {"format": "pack-quantized", "ignore": ignore, "config_groups": groups}
    apply_quantization_config(model, QuantizationConfig.model_validate(config))
    found = quantization(fields(**config))

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            scheme = getattr(module, "quantization_scheme", None)
            layout = found.layout_of(name)
            theirs = "dense" if scheme is None else f"int{scheme.weights.num_bits}"
            ours = "dense" if layout is None else layout.name.partition(" ")[0]
            assert ours == theirs, name


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse-24-bitmask"),
        ({"transform_config": {"config_groups": {"R1": {}}}}, "transform_config"),
        ({"moe_sparsity_config": {"method": "prune"}}, "moe_sparsity_config"),
        ({"quantization_status": "calibration"}, "quantization_status 'calibration'"),
        ({"kv_cache_scheme": KV_CACHE | {"type": "int"}}, "kv_cache_scheme 'int8 by tensor'"),
        ({"kv_cache_scheme": KV_CACHE | {"strategy": "attn_head"}}, "strategy 'attn_head'"),
        ({"format": "mxfp4-pack-quantized"}, "format 'mxfp4-pack-quantized'"),
        ({"format": "mxfp8-quantized"}, "format 'mxfp8-quantized'"),
        ({"format": "dense"}, "format 'dense'"),
        ({"config_groups": _group(INT4, INT_TOKEN)}, "weights 'int4 by group of 128'"),
        (
            {"config_groups": _group(INT4, INT_TOKEN), "format": "pack-quantized"},
            "group_0.input_activations 'dynamic int8 by token' is not supported; supported: none",
        ),
        (
            {"config_groups": _group(INT4 | {"group_size": 64}), "format": "marlin-24"},
            "weights 'int4 by group of 64'",
        ),
        ({"config_groups": _group(INT4, TOKEN), "format": "pack-quantized"}, "dynamic float8"),
        ({"config_groups": _group(INT4 | {"num_bits": 5})}, "weights 'int5 by group of 128'"),
        ({"config_groups": _group(FLOAT4 | {"group_size": 32})}, "float4 by tensor_group of 32"),
        (
            {"config_groups": _group(INT8 | {"symmetric": False}, INT_TOKEN)},
            "weights 'int8 by channel with zero points'",
        ),
        ({"config_groups": _group(FLOAT8 | {"symmetric": False}, TOKEN)}, "with zero points"),
        (
            {"config_groups": _group(BLOCKS | {"block_structure": [64, 128]}, TOKEN)},
            "weights 'float8 by block of 64x128'",
        ),
        ({"config_groups": _group(FLOAT8, FLOAT8)}, "input_activations 'float8 by channel'"),
        ({"config_groups": _group(FLOAT4, FLOAT4)}, "input_activations 'float4 by tensor_group"),
        ({"config_groups": _group(INT8 | {"dynamic": True})}, "weights 'dynamic int8"),
        (
            {"config_groups": _group(INT8 | {"actorder": "group"}), "format": "int-quantized"},
            "actorder 'group'",
        ),
        ({"config_groups": _group(FLOAT8, TOKEN, output_activations=KV_CACHE)}, "output_activ"),
        ({"config_groups": _group(None, TOKEN)}, "input_activations 'without weights'"),
        ({"ignore": ["re:(a"]}, "the regular expression 're:\\(a' is not supported: it does not"),
        ({"config_groups": _group(INT4, targets=["re:(?i)mlp"])}, "regular expression 're:\\(\\?i"),
        ({"ignore": [f"re:.*{place}" for place in range(300)]}, "at most 256 regular"),
        (
            {"config_groups": _group(INT4, targets=[f"re:{place}" for place in range(300)])},
            "listed in 300 entries",
        ),
    ],
)
def test_what_is_not_read_is_refused_by_name(config: dict[str, Any], sentence: str) -> None:
    whole = {"config_groups": _group(INT4)} | config
    with pytest.raises(UnsupportedModel, match=sentence):
        quantization(fields(**whole))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"config_groups": []}, r"config_groups is \[\]; expected an object"),
        ({"config_groups": {"W8A8": ["Linear"]}}, "config_groups.W8A8 is"),
        ({"config_groups": _group(INT4 | {"group_size": None})}, "lacks config_groups.*group_size"),
        ({"config_groups": _group(INT4 | {"group_size": -2})}, "group_size is -2"),
        ({"config_groups": _group(INT4 | {"actorder": "up"})}, 'actorder is "up"; expected "gr'),
        ({"config_groups": _group(INT4 | {"dynamic": 1})}, "dynamic is 1; expected false or true"),
        ({"config_groups": _group(INT4, targets="Linear")}, "targets is"),
        ({"config_groups": _group(INT4, targets=None)}, "lacks config_groups.group_0.targets"),
        ({"ignore": [1]}, "ignore is"),
    ],
)
def test_a_field_without_meaning_is_refused(config: dict[str, Any], sentence: str) -> None:
    whole = {"config_groups": _group(INT4)} | config
    with pytest.raises(ModelUnreadable, match=sentence):
        quantization(fields(**whole))


def test_a_regular_expression_cannot_hang_the_server() -> None:
    found = quantization(fields(config_groups=_group(INT4), ignore=["re:(a(?!(a|aa)*b))*$"]))
    start = time.monotonic()
    with pytest.raises(UnsupportedModel, match="is not supported: it takes more than 50000 steps"):
        found.layout_of("a" * 4000)
    assert time.monotonic() - start < 2
