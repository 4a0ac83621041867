"""Which tensor of a checkpoint fills which rows of which parameter. Data, no tensors.

Query, key and value projections lie in one matrix, and so do gate and up, because one large
matrix product is faster than several small ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from aweigh_runtime.model.config import ModelConfig

IGNORED_SUFFIXES = ("rotary_emb.inv_freq",)  # old checkpoints store what the config implies
HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Place:
    """One tensor's home."""

    name: str  # in the checkpoint
    parameter: str  # of the decoder
    first_row: int
    shape: tuple[int, ...]


def places(config: ModelConfig) -> Iterator[Place]:
    """Every tensor that a checkpoint of this config must have."""
    vocabulary = (config.vocab_size, config.hidden_size)
    yield Place("model.embed_tokens.weight", "embedding", 0, vocabulary)
    for index in range(config.num_layers):
        yield from _layer(config, f"model.layers.{index}", f"layers.{index}")
    yield Place("model.norm.weight", "norm", 0, (config.hidden_size,))
    if not config.tie_word_embeddings:
        yield Place(HEAD, "head", 0, vocabulary)


def ignored(name: str, config: ModelConfig) -> bool:
    """Whether a checkpoint may have a tensor that the decoder has no place for."""
    return name.endswith(IGNORED_SUFFIXES) or (config.tie_word_embeddings and name == HEAD)


def _layer(config: ModelConfig, source: str, target: str) -> Iterator[Place]:
    size, mlp = config.hidden_size, config.mlp_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention, bias = f"{source}.self_attn", config.attention_bias
    yield Place(f"{source}.input_layernorm.weight", f"{target}.attention_norm", 0, (size,))
    qkv = [
        (f"{attention}.q_proj", queries),
        (f"{attention}.k_proj", keys),
        (f"{attention}.v_proj", keys),
    ]
    yield from _stacked(f"{target}.qkv", qkv, size, bias)
    yield from _stacked(f"{target}.out", [(f"{attention}.o_proj", size)], queries, bias)
    yield Place(f"{source}.post_attention_layernorm.weight", f"{target}.mlp_norm", 0, (size,))
    gate_up = [(f"{source}.mlp.{part}_proj", mlp) for part in ("gate", "up")]
    yield from _stacked(f"{target}.gate_up", gate_up, size, config.mlp_bias)
    down = [(f"{source}.mlp.down_proj", size)]
    yield from _stacked(f"{target}.down", down, mlp, config.mlp_bias)


def _stacked(
    target: str, parts: list[tuple[str, int]], columns: int, bias: bool
) -> Iterator[Place]:
    first_row = 0
    for name, rows in parts:
        yield Place(f"{name}.weight", f"{target}.weight", first_row, (rows, columns))
        if bias:
            yield Place(f"{name}.bias", f"{target}.bias", first_row, (rows,))
        first_row += rows
