"""Gemma 2, Gemma 3, and the text part of a Gemma 3 that sees images."""

from dataclasses import replace

from aweigh_runtime.failures import UnsupportedModel
from aweigh_runtime.fields import Fields
from aweigh_runtime.model.architectures.plain import (
    Defaults,
    dtype,
    hidden_size,
    max_positions,
    mlp_size,
    num_layers,
    plain,
)
from aweigh_runtime.model.architectures.positions import layer_ropes, rope, served_positions
from aweigh_runtime.model.architectures.windows import FULL, SLIDING, kinds, window, windows
from aweigh_runtime.model.config import LayerConfig, ModelConfig, TensorNames

_GEMMA2 = Defaults(
    max_positions=8192,
    num_kv_heads=4,
    head_dim=256,
    activation=("hidden_activation", "gelu_pytorch_tanh"),
    tied=True,
)
# Published configs of Gemma 3 leave out what its smallest model has.
_GEMMA3 = replace(
    _GEMMA2,
    max_positions=131_072,
    vocab_size=262_208,
    hidden_size=2304,
    num_layers=26,
    num_heads=8,
)
_NAMES = TensorNames(mlp_norm="pre_feedforward_layernorm")
_VISION_NAMES = replace(
    _NAMES,
    prefixes=(("language_model.", ""), ("model.language_model.", "model.")),
    foreign=(
        "vision_tower.",
        "multi_modal_projector.",
        "model.vision_tower.",
        "model.multi_modal_projector.",
    ),
)


def gemma2(fields: Fields) -> ModelConfig:
    """Soft caps; every other layer has a window."""
    turned, size, count = rope(fields, _GEMMA2), mlp_size(fields), num_layers(fields, _GEMMA2)
    default = [FULL if index % 2 else SLIDING for index in range(count)]
    seen = windows(fields, window(fields, 4096), default)
    return replace(
        _gemma(
            fields,
            "Gemma2ForCausalLM",
            _GEMMA2,
            tuple(LayerConfig(turned, size, each) for each in seen),
        ),
        max_positions=served_positions(turned, max_positions(fields, _GEMMA2)),
        attention_soft_cap=fields.optional_number("attn_logit_softcapping", 1e-3, 1e6, 50.0),
        logit_soft_cap=fields.optional_number("final_logit_softcapping", 1e-3, 1e6, 30.0),
    )


def gemma3(fields: Fields) -> ModelConfig:
    """Queries and keys have norms; most layers have a window, and a RoPE base of their own."""
    if "attn_logit_softcapping" in fields:
        raise UnsupportedModel(
            f"{fields.path}: attn_logit_softcapping is not supported for Gemma 3; expected null"
        )
    size, count = mlp_size(fields, 9216), num_layers(fields, _GEMMA3)
    period = fields.integer("sliding_window_pattern", 1, 1 << 12, 6)
    default = [SLIDING if (index + 1) % period else FULL for index in range(count)]
    turned, found = layer_ropes(fields, _GEMMA3), kinds(fields, default)
    seen = windows(fields, window(fields, 4096), default)
    layers = tuple(
        LayerConfig(turned[kind], size, each) for kind, each in zip(found, seen, strict=True)
    )
    return replace(
        _gemma(fields, "Gemma3ForCausalLM", _GEMMA3, layers),
        logit_soft_cap=fields.optional_number("final_logit_softcapping", 1e-3, 1e6, None),
        head_norms=True,
    )


def gemma3_with_vision(fields: Fields) -> ModelConfig:
    """Its text_config is a Gemma 3; the tensors that see are left where they are."""
    text = gemma3(fields.object("text_config"))
    return replace(
        text,
        architecture="Gemma3ForConditionalGeneration",
        tie_word_embeddings=fields.boolean("tie_word_embeddings", text.tie_word_embeddings),
        dtype=dtype(fields) or text.dtype,
        names=_VISION_NAMES,
    )


def _gemma(
    fields: Fields, architecture: str, defaults: Defaults, layers: tuple[LayerConfig, ...]
) -> ModelConfig:
    if fields.boolean("use_bidirectional_attention", False):
        raise UnsupportedModel(
            f"{fields.path}: use_bidirectional_attention is not supported; expected false"
        )
    bias = fields.boolean("attention_bias", False)
    return replace(
        plain(fields, architecture, defaults, layers),
        attention_scale=fields.number("query_pre_attn_scalar", 1e-3, 1e6, 256.0) ** -0.5,
        qkv_bias=bias,
        out_bias=bias,
        norms_after=True,
        norm_less_one=True,
        embedding_scale=hidden_size(fields, defaults) ** 0.5,
        names=_NAMES,
    )
