"""Qwen 2 (2.5 is the same), Qwen 3, and Qwen 3 with experts."""

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
from aweigh_runtime.model.architectures.windows import FULL, SLIDING, window, windows
from aweigh_runtime.model.config import LayerConfig, ModelConfig

_QWEN2 = Defaults(max_positions=32_768, num_kv_heads=32)
_QWEN3 = Defaults(max_positions=32_768, num_kv_heads=32, head_dim=128)
_QWEN3_MOE = Defaults(max_positions=32_768, num_kv_heads=4)


def qwen2(fields: Fields) -> ModelConfig:
    """Queries, keys and values have biases; the later layers may have windows."""
    return replace(_qwen(fields, "Qwen2ForCausalLM", _QWEN2), qkv_bias=True)


def qwen3(fields: Fields) -> ModelConfig:
    """Queries and keys have norms; the later layers may have windows."""
    bias = fields.boolean("attention_bias", False)
    return replace(
        _qwen(fields, "Qwen3ForCausalLM", _QWEN3), qkv_bias=bias, out_bias=bias, head_norms=True
    )


def qwen3_moe(fields: Fields) -> ModelConfig:
    """As Qwen 3; most layers have experts, and all have windows or none has."""
    turned = rope(fields, _QWEN3_MOE)
    seen = _window(fields)
    dense = LayerConfig(turned, mlp_size(fields, 6144), seen)
    sparse = LayerConfig(
        turned,
        mlp_size(fields, 768, "moe_intermediate_size"),
        seen,
        experts(
            fields,
            ("num_experts", "num_local_experts"),
            128,
            8,
            fields.boolean("norm_topk_prob", False),
        ),
    )
    count = num_layers(fields, _QWEN3_MOE)
    step = fields.integer("decoder_sparse_step", 1, 1 << 12, 1)
    without = set(fields.integers("mlp_only_layers", 0, 1 << 12))
    bias = fields.boolean("attention_bias", False)
    return replace(
        plain(
            fields,
            "Qwen3MoeForCausalLM",
            _QWEN3_MOE,
            tuple(
                dense if index in without or (index + 1) % step else sparse
                for index in range(count)
            ),
        ),
        max_positions=served_positions(turned, max_positions(fields, _QWEN3_MOE)),
        qkv_bias=bias,
        out_bias=bias,
        head_norms=True,
    )


def _qwen(fields: Fields, architecture: str, defaults: Defaults) -> ModelConfig:
    turned, size = rope(fields, defaults), mlp_size(fields)
    count, seen = num_layers(fields, defaults), _window(fields)
    first = fields.integer("max_window_layers", 0, 1 << 12, 28) if seen is not None else count
    default = [SLIDING if index >= first else FULL for index in range(count)]
    layers = tuple(LayerConfig(turned, size, each) for each in windows(fields, seen, default))
    return replace(
        plain(fields, architecture, defaults, layers),
        max_positions=served_positions(turned, max_positions(fields, defaults)),
    )


def _window(fields: Fields) -> int | None:
    return window(fields, 4096) if fields.boolean("use_sliding_window", False) else None
