"""What a model's config.json says, checked. No tensor here: a wrong config fails before loading.

A value that is wrong makes the model unreadable; one that is right but not built yet makes it
unsupported, and the message names what is.
"""

from dataclasses import dataclass
from pathlib import Path

from aweigh_runtime.failures import ModelNotFound, ModelUnreadable, UnsupportedModel
from aweigh_runtime.model.fields import Fields, read_object

ARCHITECTURES = ("LlamaForCausalLM",)
ROPE_TYPES = ("default", "llama3")
ACTIVATIONS = ("silu",)


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Low rotary frequencies are slowed down by `factor`, high ones kept, those between blended."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding."""

    theta: float
    scaling: Llama3Scaling | None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a decoder."""

    architecture: str
    vocab_size: int  # V
    hidden_size: int  # N
    mlp_size: int  # M
    num_layers: int
    num_heads: int  # H
    num_kv_heads: int  # K
    head_dim: int  # D
    rms_norm_eps: float
    rope: Rope
    max_positions: int
    attention_bias: bool
    mlp_bias: bool
    tie_word_embeddings: bool
    dtype: str | None  # of the checkpoint, when the config says it


def read_config(directory: Path) -> ModelConfig:
    """Parse and check `config.json`.

    Raises:
        ModelNotFound: there is no such directory.
        ModelUnreadable: the file is missing, is not a JSON object, or holds impossible values.
        UnsupportedModel: the runtime lacks the architecture or a feature.
    """
    if not directory.is_dir():
        raise ModelNotFound(f"there is no directory {directory}; check model.uri")
    path = directory / "config.json"
    if not path.is_file():
        raise ModelUnreadable(f"{directory} has no config.json; expected a Hugging Face model")
    fields = Fields(path, read_object(path))
    architecture = _architecture(path, fields)
    return _llama(path, fields, architecture)


def _architecture(path: Path, fields: Fields) -> str:
    for name in fields.texts("architectures"):
        if name in ARCHITECTURES:
            return name
    raise UnsupportedModel(
        f"{path}: architecture {', '.join(fields.texts('architectures')) or 'not given'} is not "
        f"supported; supported: {', '.join(ARCHITECTURES)}"
    )


def _llama(path: Path, fields: Fields, architecture: str) -> ModelConfig:
    if "quantization_config" in fields:
        raise UnsupportedModel(
            f"{path} has a quantization_config; this version serves unquantized weights only: use "
            "the bf16, fp16 or fp32 checkpoint"
        )
    _choice(path, "hidden_act", fields.text("hidden_act", "silu"), ACTIVATIONS)
    hidden_size = fields.integer("hidden_size", 1, 1 << 20)
    num_heads = fields.integer("num_attention_heads", 1, 1 << 16)
    num_kv_heads = fields.integer("num_key_value_heads", 1, num_heads, num_heads)
    if num_heads % num_kv_heads:
        raise ModelUnreadable(
            f"{path}: num_attention_heads ({num_heads}) must be a multiple of num_key_value_heads "
            f"({num_kv_heads})"
        )
    max_positions = fields.integer("max_position_embeddings", 1, 1 << 30, 2048)
    return ModelConfig(
        architecture=architecture,
        vocab_size=fields.integer("vocab_size", 1, 1 << 26),
        hidden_size=hidden_size,
        mlp_size=fields.integer("intermediate_size", 1, 1 << 22),
        num_layers=fields.integer("num_hidden_layers", 1, 1 << 12),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=_head_dim(path, fields, hidden_size, num_heads),
        rms_norm_eps=fields.number("rms_norm_eps", 0.0, 1.0, 1e-6),
        rope=_rope(path, fields, max_positions),
        max_positions=max_positions,
        attention_bias=fields.boolean("attention_bias", False),
        mlp_bias=fields.boolean("mlp_bias", False),
        tie_word_embeddings=fields.boolean("tie_word_embeddings", False),
        dtype=_dtype(fields),
    )


def _head_dim(path: Path, fields: Fields, hidden_size: int, num_heads: int) -> int:
    if "head_dim" not in fields and hidden_size % num_heads:
        raise ModelUnreadable(
            f"{path}: hidden_size ({hidden_size}) must be a multiple of num_attention_heads "
            f"({num_heads}), or head_dim must be given"
        )
    head_dim = fields.integer("head_dim", 2, 1 << 14, max(hidden_size // num_heads, 1))
    if head_dim % 2:
        raise ModelUnreadable(f"{path}: head_dim is {head_dim}; rotary embedding needs it even")
    return head_dim


def _rope(path: Path, fields: Fields, max_positions: int) -> Rope:
    """Newer configs hold all of it in rope_parameters, older ones in rope_theta, rope_scaling."""
    rope = fields.object("rope_parameters" if "rope_parameters" in fields else "rope_scaling")
    theta = fields.number("rope_theta", 1.0, 1e12, 10_000.0)
    theta = rope.number("rope_theta", 1.0, 1e12, theta)
    kind = rope.text("rope_type", rope.text("type", "default"))
    _choice(path, "rope_scaling type", kind, ROPE_TYPES)
    if rope.number("partial_rotary_factor", 0.0, 1.0, 1.0) != 1.0:
        raise UnsupportedModel(f"{path}: partial_rotary_factor is not supported; expected 1")
    return Rope(theta, _llama3_scaling(path, rope, max_positions) if kind == "llama3" else None)


def _llama3_scaling(path: Path, rope: Fields, max_positions: int) -> Llama3Scaling:
    low = rope.number("low_freq_factor", 1e-3, 1e6)
    high = rope.number("high_freq_factor", 1e-3, 1e6)
    if high <= low:
        raise ModelUnreadable(
            f"{path}: rope_scaling.high_freq_factor ({high:g}) must be above low_freq_factor "
            f"({low:g})"
        )
    return Llama3Scaling(
        factor=rope.number("factor", 1.0, 1e6),
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_positions=rope.integer(
            "original_max_position_embeddings", 1, 1 << 30, max_positions
        ),
    )


def _dtype(fields: Fields) -> str | None:
    for name in ("dtype", "torch_dtype"):
        if name in fields:
            return fields.text(name).removeprefix("torch.")
    return None


def _choice(path: Path, name: str, value: str, supported: tuple[str, ...]) -> None:
    if value not in supported:
        raise UnsupportedModel(
            f"{path}: {name} {value!r} is not supported; supported: {', '.join(supported)}"
        )
