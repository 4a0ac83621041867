"""Llama 2 and 3."""

from dataclasses import replace

from aweigh_runtime.fields import Fields
from aweigh_runtime.model.architectures.plain import (
    Defaults,
    max_positions,
    mlp_size,
    num_layers,
    plain,
)
from aweigh_runtime.model.architectures.positions import rope, served_positions
from aweigh_runtime.model.config import LayerConfig, ModelConfig

_DEFAULTS = Defaults(max_positions=2048)


def llama(fields: Fields) -> ModelConfig:
    """All layers are alike; projections may have biases."""
    turned = rope(fields, _DEFAULTS)
    layers = (LayerConfig(turned, mlp_size(fields)),) * num_layers(fields, _DEFAULTS)
    bias = fields.boolean("attention_bias", False)
    return replace(
        plain(fields, "LlamaForCausalLM", _DEFAULTS, layers),
        max_positions=served_positions(turned, max_positions(fields, _DEFAULTS)),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=fields.boolean("mlp_bias", False),
    )
