"""What all families share: sizes, norms and the defaults of a plain decoder without biases."""

from dataclasses import dataclass

from aweigh_runtime.failures import ModelUnreadable
from aweigh_runtime.fields import Fields
from aweigh_runtime.model.config import Activation, LayerConfig, ModelConfig

ACTIVATIONS: tuple[Activation, ...] = ("silu", "gelu_pytorch_tanh")
MAX_POSITIONS = 1 << 30
_MAX_LAYERS = 1 << 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a family takes for a field that config.json leaves out; None: it must be given."""

    max_positions: int
    vocab_size: int | None = None
    hidden_size: int | None = None
    num_layers: int | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None  # None: as many as heads
    head_dim: int | None = None  # None: hidden_size divided among the heads
    rms_norm_eps: float = 1e-6
    activation: tuple[str, Activation] = ("hidden_act", "silu")  # name of the field, value
    tied: bool = False


def plain(
    fields: Fields, architecture: str, defaults: Defaults, layers: tuple[LayerConfig, ...]
) -> ModelConfig:
    """A decoder with one norm before attention and one before the MLP, and no bias."""
    num_heads, num_kv_heads = heads(fields, defaults)
    width = head_dim(fields, defaults)
    return ModelConfig(
        architecture=architecture,
        vocab_size=fields.integer("vocab_size", 1, 1 << 26, defaults.vocab_size),
        hidden_size=hidden_size(fields, defaults),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=width,
        layers=layers,
        max_positions=max_positions(fields, defaults),
        rms_norm_eps=fields.number("rms_norm_eps", 0.0, 1.0, defaults.rms_norm_eps),
        activation=_activation(fields, *defaults.activation),
        attention_scale=width**-0.5,
        tie_word_embeddings=fields.boolean("tie_word_embeddings", defaults.tied),
        dtype=dtype(fields),
    )


def hidden_size(fields: Fields, defaults: Defaults) -> int:
    """N."""
    return fields.integer("hidden_size", 1, 1 << 20, defaults.hidden_size)


def num_layers(fields: Fields, defaults: Defaults) -> int:
    """Decoder layers."""
    return fields.integer("num_hidden_layers", 1, _MAX_LAYERS, defaults.num_layers)


def mlp_size(fields: Fields, default: int | None = None, name: str = "intermediate_size") -> int:
    """M."""
    return fields.integer(name, 1, 1 << 22, default)


def max_positions(fields: Fields, defaults: Defaults) -> int:
    """Positions that the config names, before any scaling."""
    return fields.integer("max_position_embeddings", 1, MAX_POSITIONS, defaults.max_positions)


def heads(fields: Fields, defaults: Defaults) -> tuple[int, int]:
    """H and K."""
    num_heads = fields.integer("num_attention_heads", 1, 1 << 16, defaults.num_heads)
    num_kv_heads = fields.integer(
        "num_key_value_heads", 1, num_heads, min(defaults.num_kv_heads or num_heads, num_heads)
    )
    if num_heads % num_kv_heads:
        raise ModelUnreadable(
            f"{fields.path}: num_attention_heads ({num_heads}) must be a multiple of "
            f"num_key_value_heads ({num_kv_heads})"
        )
    return num_heads, num_kv_heads


def head_dim(fields: Fields, defaults: Defaults) -> int:
    """D."""
    size, (num_heads, _) = hidden_size(fields, defaults), heads(fields, defaults)
    if "head_dim" not in fields and defaults.head_dim is None and size % num_heads:
        raise ModelUnreadable(
            f"{fields.path}: hidden_size ({size}) must be a multiple of num_attention_heads "
            f"({num_heads}), or head_dim must be given"
        )
    default = defaults.head_dim or max(size // num_heads, 1)
    width = fields.integer("head_dim", 2, 1 << 14, default)
    if width % 2:
        raise ModelUnreadable(f"{fields.path}: head_dim is {width}; rotary embedding needs it even")
    return width


def dtype(fields: Fields) -> str | None:
    """The number format of the checkpoint, under its new or its old name."""
    for name in ("dtype", "torch_dtype"):
        if name in fields:
            return fields.text(name).removeprefix("torch.")
    return None


def _activation(fields: Fields, name: str, default: Activation) -> Activation:
    found = fields.choice(name, fields.text(name, default), ACTIVATIONS)
    return next(activation for activation in ACTIVATIONS if activation == found)
