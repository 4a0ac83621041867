"""Mistral, and Mixtral: the same with experts."""

from dataclasses import replace

from aweigh_runtime.fields import Fields
from aweigh_runtime.model.architectures.experts import experts
from aweigh_runtime.model.architectures.plain import (
    Defaults,
    max_positions,
    mlp_size,
    num_layers,
    plain,
)
from aweigh_runtime.model.architectures.positions import rope, served_positions
from aweigh_runtime.model.architectures.windows import window
from aweigh_runtime.model.config import LayerConfig, ModelConfig, TensorNames

_MISTRAL = Defaults(max_positions=131_072, num_kv_heads=8)
_MIXTRAL = Defaults(max_positions=131_072, num_kv_heads=8, rms_norm_eps=1e-5)
_MIXTRAL_NAMES = TensorNames(
    router="block_sparse_moe.gate",
    experts="block_sparse_moe.experts",
    expert_gate_up=("w1", "w3"),
    expert_down="w2",
)


def mistral(fields: Fields) -> ModelConfig:
    """Every layer sees a window of tokens; later versions write null there."""
    turned = rope(fields, _MISTRAL)
    layer = LayerConfig(turned, mlp_size(fields), window(fields, 4096))
    return replace(
        plain(fields, "MistralForCausalLM", _MISTRAL, (layer,) * num_layers(fields, _MISTRAL)),
        max_positions=served_positions(turned, max_positions(fields, _MISTRAL)),
    )


def mixtral(fields: Fields) -> ModelConfig:
    """Every layer has experts, whose weights for a token sum to 1."""
    turned = rope(fields, _MIXTRAL, 1_000_000.0)
    layer = LayerConfig(
        turned,
        mlp_size(fields),
        window(fields, None),
        experts(fields, ("num_local_experts",), 8, 2, normalized=True),
    )
    return replace(
        plain(fields, "MixtralForCausalLM", _MIXTRAL, (layer,) * num_layers(fields, _MIXTRAL)),
        max_positions=served_positions(turned, max_positions(fields, _MIXTRAL)),
        names=_MIXTRAL_NAMES,
    )
