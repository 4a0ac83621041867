"""How many bytes a model takes, from its config alone. It allocates nothing and needs no torch."""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain

from aweigh_api.spec import DTypeName
from aweigh_runtime.failures import InvalidConfiguration
from aweigh_runtime.model.config import LayerConfig, ModelConfig
from aweigh_runtime.model.placement import Place, layer_places, outer_places

_ITEM_BYTES = {"bf16": 2, "bfloat16": 2, "fp16": 2, "float16": 2}
_WIDE_BYTES = 4  # of fp32
_CACHED_BYTES = {"fp8": 1, "bf16": 2, "fp16": 2, "fp32": 4}

KeptBytes = Callable[[Place], int | None]


def item_bytes(dtype: DTypeName, config: ModelConfig) -> int:
    """Bytes of one value; `auto` is the checkpoint's format, and fp32 where its config is silent.

    A CPU that cannot compute in that format itself serves fp32 instead, with twice the bytes.
    """
    name = config.dtype if dtype == "auto" else dtype
    return _ITEM_BYTES.get(name or "", _WIDE_BYTES)


def cached_bytes(kept: str, item_bytes: int) -> int:
    """Bytes of one number among cached keys and values; `auto` is the format of the model's."""
    return _CACHED_BYTES.get(kept, item_bytes)


def weight_bytes(config: ModelConfig, item_bytes: int, kept_bytes: KeptBytes | None = None) -> int:
    """Memory of all weights.

    Args:
        config: of the model.
        item_bytes: of one value of a dense weight.
        kept_bytes: memory of a matrix, None if it is dense; without it all are.

    O(kinds of layers); with `kept_bytes` O(layers), whose matrices may differ.
    """
    layers: Iterable[tuple[int, LayerConfig, int]]
    if kept_bytes is None:
        layers = ((0, kind, count) for kind, count in Counter(config.layers).items())
    else:
        layers = ((index, kind, 1) for index, kind in enumerate(config.layers))
    placed = chain(
        ((place, 1) for place in outer_places(config)),
        (
            (place, count)
            for index, kind, count in layers
            for place in layer_places(config, kind, index)
        ),
    )
    return sum(count * _place_bytes(place, item_bytes, kept_bytes) for place, count in placed)


def _place_bytes(place: Place, item_bytes: int, kept_bytes: KeptBytes | None) -> int:
    kept = kept_bytes(place) if kept_bytes is not None and place.matrix else None
    if kept is not None:
        return kept
    return place.num_values * (_WIDE_BYTES if place.added else item_bytes)


def is_dense(config: ModelConfig, kept_bytes: KeptBytes | None) -> bool:
    """Whether no matrix is quantized; `kept_bytes` as `weight_bytes` takes it."""
    if kept_bytes is None:
        return True
    places = chain(
        outer_places(config),
        *(layer_places(config, kind, index) for index, kind in enumerate(config.layers)),
    )
    return all(kept_bytes(place) is None for place in places if place.matrix)


def bytes_per_token(config: ModelConfig, item_bytes: int) -> int:
    """Memory that one token takes in the cache."""
    return config.num_layers * 2 * config.num_kv_heads * config.head_dim * item_bytes


def model_len(config: ModelConfig, wanted: int | None) -> int:
    """Tokens of prompt and answer together.

    Raises:
        InvalidConfiguration: more are wanted than the model was made for.
    """
    if wanted is not None and wanted > config.max_positions:
        raise InvalidConfiguration(
            f"--max-model-len is {wanted}, but the model was made for {config.max_positions} "
            "tokens; give at most that"
        )
    return config.max_positions if wanted is None else wanted
