"""Phi-3 and Phi-4-mini."""

from dataclasses import replace

from aweigh_runtime.fields import Fields
from aweigh_runtime.model.architectures.plain import Defaults, mlp_size, num_layers, plain
from aweigh_runtime.model.architectures.positions import phi_rope
from aweigh_runtime.model.architectures.windows import window
from aweigh_runtime.model.config import LayerConfig, ModelConfig, TensorNames

_DEFAULTS = Defaults(max_positions=4096, rms_norm_eps=1e-5)
_NAMES = TensorNames(qkv=("self_attn.qkv_proj",), gate_up=("mlp.gate_up_proj",))


def phi3(fields: Fields) -> ModelConfig:
    """The checkpoint holds query, key and value as one tensor, and so gate and up."""
    layer = LayerConfig(phi_rope(fields, _DEFAULTS), mlp_size(fields), window(fields, None))
    layers = (layer,) * num_layers(fields, _DEFAULTS)
    return replace(plain(fields, "Phi3ForCausalLM", _DEFAULTS, layers), names=_NAMES)
