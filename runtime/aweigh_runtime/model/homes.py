"""Where each tensor of a checkpoint belongs, once it has all that its config implies and no more.

A dense tensor fills rows of a weight. A quantized matrix is stored as several tensors, which
together are the rows of a shard. It reads no values.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from aweigh_runtime.failures import ModelUnreadable, UnsupportedModel
from aweigh_runtime.formats.choice import kept_bytes
from aweigh_runtime.formats.kv_scales import Cached, kv_scale_names
from aweigh_runtime.formats.layout import Layout, LayoutError, Part, Quantization
from aweigh_runtime.formats.modules import is_router
from aweigh_runtime.model.config import ModelConfig
from aweigh_runtime.model.header import StoredTensor
from aweigh_runtime.model.number_format import STORED
from aweigh_runtime.model.placement import EMBEDDING, Place, canonical, ignored, places

_MOST_NAMES = 1000  # of tensors that are missing: a wrong config may imply any number

Stored = Mapping[str, StoredTensor]  # by canonical name
Target = tuple[str, int]  # a matrix of the decoder: its weight's name, and which of the stacked


@dataclass(frozen=True, slots=True)
class Shard:
    """The rows of a matrix that one module of a checkpoint fills."""

    place: Place
    layout: Layout | None  # None: dense
    tensors: dict[str, StoredTensor]  # by what stands behind the module's name


@dataclass(frozen=True, slots=True)
class KvScale:
    """What a layer's cached keys, values or both are multiplied with."""

    layer: int
    cached: tuple[Cached, ...]
    tensor: StoredTensor


@dataclass(frozen=True, slots=True)
class Homes:
    """What to do with each tensor."""

    dense: dict[str, Place] = field(default_factory=dict)  # by canonical name
    quantized: dict[Target, list[Shard]] = field(default_factory=dict)  # shards by rows
    zeros: list[StoredTensor] = field(default_factory=list)  # biases that the model has not
    kv_scales: list[KvScale] = field(default_factory=list)

    @property
    def names(self) -> frozenset[str]:
        """Weights that are quantized."""
        return frozenset(name for name, _ in self.quantized)

    def kept_bytes(self, place: Place) -> int | None:
        """Memory of a quantized matrix; None: it is dense."""
        for shard in self.quantized.get((place.weight, place.expert or 0), ()):
            if shard.place == place and shard.layout is not None:
                return kept_bytes(shard.layout, *place.shape)
        return None


def homes_of(
    directory: Path, config: ModelConfig, stored: Stored, quantization: Quantization | None
) -> Homes:
    """The place of each tensor.

    Args:
        directory: named in messages.
        config: of the model.
        stored: by canonical name.
        quantization: what the checkpoint says of it.

    Raises:
        ModelUnreadable, UnsupportedModel: tensors are missing, left over, or of another shape or
            number format.
    """
    search = _Search(directory, config, stored, quantization)
    shards = []
    for shard in search.shards():
        shards.append(shard)
        if len(search.missing) >= _MOST_NAMES:
            break
    if search.missing:
        raise ModelUnreadable(
            f"{directory} lacks {_some(search.missing)}, which its config.json implies"
        )
    homes = homes_by_matrix(shards)
    _place_others(homes, directory, config, stored)
    return homes


class _Search:
    """Finds the tensors of each place."""

    def __init__(
        self,
        directory: Path,
        config: ModelConfig,
        stored: Stored,
        quantization: Quantization | None,
    ) -> None:
        self._directory = directory
        self._config = config
        self._stored = stored
        self._quantization = quantization
        self._modules = {tensor.name.rpartition(".")[0] for tensor in stored.values()}
        self.missing: list[str] = []

    def shards(self) -> Iterator[Shard]:
        """One for each place."""
        for place in places(self._config):
            layout = self._layout(place)
            if layout is None:
                parts = {place.name.rpartition(".")[2]: Part((place.shape,), tuple(STORED))}
            else:
                parts = expected_parts(self._directory, place, layout)
            yield Shard(place, layout, dict(self._found(place, parts)))

    def _layout(self, place: Place) -> Layout | None:
        if self._quantization is None or not place.matrix:
            return None
        names = spellings(place.module, self._config)
        own = next((name for name in names if name in self._modules), place.module)
        layout = self._quantization.layout_of(own)
        return None if layout is None or self._dense_router(place, layout) else layout

    def _dense_router(self, place: Place, layout: Layout) -> bool:
        """Packers leave routers dense, and many do not say so."""
        if not is_router(place.module) or place.name not in self._stored:
            return False
        try:
            parts = layout.parts(*place.shape)
        except LayoutError:
            return True
        required = (suffix for suffix, part in parts.items() if not part.optional)
        return any(f"{place.module}.{suffix}" not in self._stored for suffix in required)

    def _found(self, place: Place, parts: Mapping[str, Part]) -> Iterator[tuple[str, StoredTensor]]:
        for suffix, part in parts.items():
            name = f"{place.module}.{suffix}"
            tensor = self._stored.get(name)
            if tensor is not None:
                _check(tensor, name, part)
                yield suffix, tensor
            elif not part.optional:
                self.missing.append(name)


def spellings(module: str, config: ModelConfig) -> list[str]:
    """What a checkpoint may call a module, by which name it says what is quantized."""
    found = [
        prefix + module.removeprefix(replacement)
        for prefix, replacement in config.names.prefixes
        if module.startswith(replacement)
    ]
    return [*found, module]


def expected_parts(directory: Path, place: Place, layout: Layout) -> dict[str, Part]:
    """The tensors of a quantized matrix.

    Raises:
        UnsupportedModel: its shape cannot be stored so.
    """
    rows, columns = place.shape
    try:
        return layout.parts(rows, columns)
    except LayoutError as error:
        raise UnsupportedModel(
            f"{directory}: {place.module} [{rows}, {columns}] cannot be stored as "
            f"{layout.name}: {error}"
        ) from error


def _check(found: StoredTensor, name: str, part: Part) -> None:
    if found.shape not in part.shapes:
        expected = " or ".join(str(list(shape)) for shape in part.shapes)
        raise ModelUnreadable(
            f"{found.path}: tensor {name} is {list(found.shape)}; the config.json implies "
            f"{expected}"
        )
    if found.dtype not in part.dtypes:
        raise UnsupportedModel(
            f"{found.path}: tensor {name} is stored as {found.dtype}; supported: "
            f"{', '.join(part.dtypes)}"
        )


def homes_by_matrix(shards: Sequence[Shard]) -> Homes:
    """Those of a matrix stay together if any of them is quantized."""
    names = {shard.place.weight for shard in shards if shard.layout is not None}
    homes = Homes()
    for shard in shards:
        place = shard.place
        if place.weight in names:
            target = (place.weight, place.expert or 0)
            homes.quantized.setdefault(target, []).append(shard)
        else:
            homes.dense[place.name] = place
    for of_one in homes.quantized.values():
        of_one.sort(key=lambda shard: shard.place.first_row)
    return homes


def _place_others(homes: Homes, directory: Path, config: ModelConfig, stored: Stored) -> None:
    """Packers add biases of zeros to modules that have none, and scales of keys and values."""
    shards = [shard for of_one in homes.quantized.values() for shard in of_one]
    used = {f"{shard.place.module}.{suffix}" for shard in shards for suffix in shard.tensors}
    biases = {f"{shard.place.module}.bias" for shard in shards if shard.layout is not None}
    scales = _kv_scales(config)
    extra = []
    for name, tensor in stored.items():
        if name in homes.dense or name in used or ignored(name, config):
            continue
        if name in biases:
            homes.zeros.append(tensor)
        elif name in scales:
            homes.kv_scales.append(KvScale(*scales[name], tensor))
        else:
            extra.append(name)
    if extra:
        raise ModelUnreadable(
            f"{directory} has {_some(extra)}, which its config.json does not account for"
        )


def _kv_scales(config: ModelConfig) -> dict[str, tuple[int, tuple[Cached, ...]]]:
    attention = config.names.out.rpartition(".")[0]
    return {
        name: (index, cached)
        for index in range(config.num_layers)
        for name, cached in kv_scale_names(f"model.layers.{index}.{attention}").items()
    }


def checkpoint_format(config: ModelConfig, stored: Stored) -> str:
    """As safetensors names it: the config's word for it, or what the embedding is stored in."""
    by_name = {str(dtype).removeprefix("torch."): name for name, dtype in STORED.items()}
    return by_name.get(config.dtype or "", stored[EMBEDDING].dtype)


def by_canonical_name(tensors: Mapping[str, StoredTensor], config: ModelConfig) -> Stored:
    """A checkpoint's tensors by the names that places have."""
    return {canonical(name, config): tensor for name, tensor in tensors.items()}


def _some(names: list[str]) -> str:
    shown = list(islice(names, _MOST_NAMES))
    count = f"{len(shown) - 1} more" if len(shown) < _MOST_NAMES else "many more"
    more = f" and {count} tensors" if len(shown) > 1 else ""
    return f"tensor {shown[0]}{more}"
