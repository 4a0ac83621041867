"""What a decoder looks like: everything in which model families differ, as data. No tensor here.

`architectures` reads it from a model's config.json; the decoder is built from it.
"""

from dataclasses import dataclass
from typing import Literal

Activation = Literal["silu", "gelu_pytorch_tanh"]


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Every rotary frequency is slowed down by `factor`."""

    factor: float


@dataclass(frozen=True, slots=True)
class DynamicScaling:
    """The base grows with the position, once that lies beyond what the model was trained for.

    A token's angles depend on its own position alone, so a cached key stays right however long its
    request becomes, and whoever shares it.
    """

    factor: float
    original_max_positions: int


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Low rotary frequencies are slowed down by `factor`, high ones kept, those between blended."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """As Llama3Scaling, blended over pairs of a head; queries and keys are amplified besides."""

    factor: float
    beta_fast: float  # turns within the original length above which a frequency is kept
    beta_slow: float  # and below which it is slowed down
    truncate: bool  # the range between rounded to whole pairs
    attention_factor: float
    original_max_positions: int


@dataclass(frozen=True, slots=True)
class LongRopeScaling:
    """Each rotary frequency is slowed down by its own factor.

    A server for more tokens than the original length uses the long factors for every request, one
    for less the short ones: keys turned by both cannot stand in one cache.
    """

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    attention_factor: float
    original_max_positions: int


Scaling = LinearScaling | DynamicScaling | Llama3Scaling | YarnScaling | LongRopeScaling


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding."""

    theta: float
    size: int  # values of a head that are turned; those behind them stay
    scaling: Scaling | None = None


@dataclass(frozen=True, slots=True)
class Experts:
    """A layer's MLP that is many small ones, of which each token uses a few."""

    count: int  # E
    per_token: int
    normalized: bool  # the weights of the chosen ones sum to 1


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """In what layers of one model may differ."""

    rope: Rope
    mlp_size: int  # M; with experts, of each
    window: int | None = None  # a token sees itself and the window - 1 before it; None: all
    experts: Experts | None = None


@dataclass(frozen=True, slots=True)
class TensorNames:
    """What a checkpoint calls the tensors of a layer."""

    attention_norm: str = "input_layernorm"
    after_attention_norm: str = "post_attention_layernorm"  # where the model has one
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    head_norms: tuple[str, str] = ("self_attn.q_norm", "self_attn.k_norm")
    out: str = "self_attn.o_proj"
    mlp_norm: str = "post_attention_layernorm"
    after_mlp_norm: str = "post_feedforward_layernorm"  # where the model has one
    gate_up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    down: str = "mlp.down_proj"
    router: str = "mlp.gate"
    experts: str = "mlp.experts"
    expert_gate_up: tuple[str, str] = ("gate_proj", "up_proj")
    expert_down: str = "down_proj"
    # Of every tensor: prefixes to replace, and those of tensors that are no part of the decoder.
    prefixes: tuple[tuple[str, str], ...] = ()
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The shape of a decoder."""

    architecture: str
    vocab_size: int  # V
    hidden_size: int  # N
    num_heads: int  # H
    num_kv_heads: int  # K
    head_dim: int  # D
    layers: tuple[LayerConfig, ...]
    max_positions: int  # tokens of prompt and answer that the model was made for
    rms_norm_eps: float
    activation: Activation = "silu"
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    head_norms: bool = False  # of queries and keys
    norms_after: bool = False  # of what attention and MLP add, too
    norm_less_one: bool = False  # a norm's weights are stored less one, and multiplied in fp32
    attention_scale: float
    attention_soft_cap: float | None = None
    logit_soft_cap: float | None = None
    embedding_scale: float | None = None
    tie_word_embeddings: bool = False
    dtype: str | None = None  # of the checkpoint, when the config says it
    names: TensorNames = TensorNames()

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return len(self.layers)

    @property
    def ropes(self) -> list[Rope]:
        """The rotary embeddings of all layers, each once."""
        return list(dict.fromkeys(layer.rope for layer in self.layers))
