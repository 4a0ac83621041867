"""Whatever a config says, it is understood or refused by name."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aweigh_runtime.failures import StartFailure
from aweigh_runtime.fields import Fields
from aweigh_runtime.formats import compressed_tensors, fp8, modelopt
from aweigh_runtime.formats.layout import LayoutError, Quantization
from tests.runtime.formats.stored import fields

WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "actorder": None}
BLOCKS = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}
ACTIVATIONS = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
GROUPS = {
    "group_0": {"targets": ["Linear"], "weights": WEIGHTS, "format": "pack-quantized"},
    "group_1": {"targets": ["re:.*q"], "weights": BLOCKS, "input_activations": ACTIVATIONS},
}
CONFIGS: dict[str, tuple[Callable[[Fields], Quantization], dict[str, Any]]] = {
    "compressed-tensors": (
        compressed_tensors.quantization,
        {
            "format": "mixed-precision",
            "config_groups": GROUPS,
            "ignore": ["lm_head", "re:.*gate"],
            "kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "tensor"},
            "sparsity_config": {"format": "dense"},
            "quantization_status": "compressed",
        },
    ),
    "fp8": (
        fp8.quantization,
        {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "weight_block_size": [128, 128],
            "fmt": "e4m3",
            "ignored_layers": ["lm_head", "model.*.gate"],
        },
    ),
    "modelopt": (
        modelopt.quantization,
        {
            "quantization": {
                "quant_algo": "MIXED_PRECISION",
                "kv_cache_quant_algo": "FP8",
                "exclude_modules": ["lm_head", "*gate*"],
                "quantized_layers": {"q": {"quant_algo": "NVFP4", "group_size": 16}},
            }
        },
    ),
}
WORDS = ["int", "float", "group", "channel", "tensor", "block", "token", "tensor_group", "local"]
WORDS += ["pack-quantized", "nvfp4-pack-quantized", "FP8", "NVFP4", "e5m2", "static", "re:(", "*"]
LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 300),
    st.sampled_from(WORDS),
    st.text(),
    st.floats(allow_nan=False),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=2)
    ),
    max_leaves=4,
)


def _changed(value: Any, draw: st.DataObject) -> Any:
    """The same with something else in one place, deep inside or not."""
    if isinstance(value, dict) and value and draw.draw(st.integers(0, 3)):
        name = draw.draw(st.sampled_from(sorted(value)))
        return value | {name: _changed(value[name], draw)}
    return draw.draw(VALUES)


@pytest.mark.parametrize("name", CONFIGS)
@given(draw=st.data())
def test_any_config_is_understood_or_refused_by_name(name: str, draw: st.DataObject) -> None:
    quantization, config = CONFIGS[name]
    for _ in range(draw.draw(st.integers(1, 3))):
        config = _changed(config, draw)
        if not isinstance(config, dict):
            config = {name: config}
    with suppress(StartFailure):
        found = quantization(fields(**config))
        assert found.scheme
        for module in ("q", "lm_head", "model.embed_tokens", "model.layers.0.mlp.gate"):
            layout = found.layout_of(module)
            if layout is not None:
                assert layout.name
                with suppress(LayoutError):
                    assert all(part.num_bytes for part in layout.parts(64, 256).values())


@pytest.mark.parametrize("name", CONFIGS)
def test_the_configs_that_are_changed_are_read(name: str) -> None:
    quantization, config = CONFIGS[name]
    assert quantization(fields(**config)).layout_of("q") is not None
