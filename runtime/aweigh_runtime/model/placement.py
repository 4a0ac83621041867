"""Which tensor of a checkpoint fills which rows of which weight. Data, no tensors.

Query, key and value projections lie in one matrix, and so do gate and up, because one large
matrix product is faster than several small ones. Experts are stacked.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from aweigh_runtime.model.config import Experts, LayerConfig, ModelConfig

IGNORED_SUFFIXES = ("rotary_emb.inv_freq",)  # old checkpoints store what the config implies
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Place:
    """One tensor's home."""

    name: str  # in the checkpoint, its prefix replaced
    weight: str  # of the decoder
    shape: tuple[int, ...]
    first_row: int = 0
    expert: int | None = None  # whose matrix of the stacked ones
    repeats: int | None = None  # rows that all get these values
    added: float = 0.0  # to each value
    matrix: bool = False  # one that is multiplied with, and may be stored quantized

    @property
    def module(self) -> str:
        """What the tensor belongs to: its name without the last part."""
        return self.name.rpartition(".")[0]

    @property
    def num_rows(self) -> int:
        """Rows of the weight that the tensor fills."""
        return self.shape[0] if self.repeats is None else self.repeats

    @property
    def num_values(self) -> int:
        """Values of the weight that the tensor fills."""
        return (self.repeats or 1) * math.prod(self.shape)


def places(config: ModelConfig) -> Iterator[Place]:
    """Every tensor that a checkpoint of this config must have."""
    yield from outer_places(config)
    for index, layer in enumerate(config.layers):
        yield from layer_places(config, layer, index)


def canonical(name: str, config: ModelConfig) -> str:
    """A checkpoint's name for a tensor without the prefix that only some checkpoints have."""
    for prefix, replacement in config.names.prefixes:
        if name.startswith(prefix):
            return replacement + name.removeprefix(prefix)
    return name


def ignored(name: str, config: ModelConfig) -> bool:
    """Whether a checkpoint may have a tensor that the decoder has no place for."""
    return (
        name.endswith(IGNORED_SUFFIXES)
        or name.startswith(config.names.foreign)
        or (config.tie_word_embeddings and name == HEAD)
    )


def outer_places(config: ModelConfig) -> Iterator[Place]:
    """What stands before and after the layers."""
    vocabulary = (config.vocab_size, config.hidden_size)
    yield Place(EMBEDDING, "embedding.weight", vocabulary)
    yield _norm(config, "model.norm", "norm")
    if not config.tie_word_embeddings:
        yield Place(HEAD, "head.weight", vocabulary, matrix=True)


def layer_places(config: ModelConfig, layer: LayerConfig, index: int) -> Iterator[Place]:
    """The tensors of one layer."""
    source, target = f"model.layers.{index}", f"layers.{index}"
    yield from _attention(config, source, f"{target}.attention")
    yield _norm(config, f"{source}.{config.names.mlp_norm}", f"{target}.mlp.norm")
    if layer.experts is None:
        yield from _mlp(config, layer, source, f"{target}.mlp")
    else:
        yield from _experts(config, layer, layer.experts, source, f"{target}.mlp")
    if config.norms_after:
        yield _norm(config, f"{source}.{config.names.after_mlp_norm}", f"{target}.mlp.down.norm")


def _attention(config: ModelConfig, source: str, target: str) -> Iterator[Place]:
    names, width = config.names, config.head_dim
    queries, keys = config.num_heads * width, config.num_kv_heads * width
    yield _norm(config, f"{source}.{names.attention_norm}", f"{target}.norm")
    qkv = _shared([f"{source}.{name}" for name in names.qkv], [queries, keys, keys])
    yield from _stacked(f"{target}.qkv", qkv, config.hidden_size, config.qkv_bias)
    if config.head_norms:
        first, added = 0, 1.0 if config.norm_less_one else 0.0
        for name, count in zip(
            names.head_norms, (config.num_heads, config.num_kv_heads), strict=True
        ):
            yield Place(
                f"{source}.{name}.weight",
                f"{target}.qkv.norm.weight",
                (width,),
                first,
                repeats=count,
                added=added,
            )
            first += count
    out = [(f"{source}.{names.out}", config.hidden_size)]
    yield from _stacked(f"{target}.out", out, queries, config.out_bias)
    if config.norms_after:
        yield _norm(config, f"{source}.{names.after_attention_norm}", f"{target}.out.norm")


def _mlp(config: ModelConfig, layer: LayerConfig, source: str, target: str) -> Iterator[Place]:
    size, names = config.hidden_size, config.names
    gate_up = _shared([f"{source}.{name}" for name in names.gate_up], [layer.mlp_size] * 2)
    yield from _stacked(f"{target}.gate_up", gate_up, size, config.mlp_bias)
    down = [(f"{source}.{names.down}", size)]
    yield from _stacked(f"{target}.down", down, layer.mlp_size, config.mlp_bias)


def _experts(
    config: ModelConfig, layer: LayerConfig, experts: Experts, source: str, target: str
) -> Iterator[Place]:
    size, inner, names = config.hidden_size, layer.mlp_size, config.names
    router = f"{source}.{names.router}.weight"
    yield Place(router, f"{target}.router.weight", (experts.count, size), matrix=True)
    for expert in range(experts.count):
        own = f"{source}.{names.experts}.{expert}"
        for part, name in enumerate(names.expert_gate_up):
            yield Place(
                f"{own}.{name}.weight",
                f"{target}.gate_up",
                (inner, size),
                part * inner,
                expert,
                matrix=True,
            )
        yield Place(
            f"{own}.{names.expert_down}.weight",
            f"{target}.down",
            (size, inner),
            0,
            expert,
            matrix=True,
        )


def _norm(config: ModelConfig, source: str, target: str) -> Place:
    added = 1.0 if config.norm_less_one else 0.0
    return Place(f"{source}.weight", f"{target}.weight", (config.hidden_size,), added=added)


def _shared(names: list[str], rows: list[int]) -> list[tuple[str, int]]:
    """The rows of each tensor; of all together, where the checkpoint stores them as one."""
    return [(names[0], sum(rows))] if len(names) == 1 else list(zip(names, rows, strict=True))


def _stacked(
    target: str, parts: list[tuple[str, int]], columns: int, bias: bool
) -> Iterator[Place]:
    first_row = 0
    for name, rows in parts:
        yield Place(f"{name}.weight", f"{target}.weight", (rows, columns), first_row, matrix=True)
        if bias:
            yield Place(f"{name}.bias", f"{target}.bias", (rows,), first_row)
        first_row += rows
