"""The folder of a quantized model: the finished layers and what stayed dense, in few files."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aweigh_quantize.checkpoint import Checkpoint
from aweigh_quantize.one_layer import layer_matrices
from aweigh_quantize.outcome import Sizes
from aweigh_quantize.tensor_file import (
    CannotWrite,
    Entry,
    copy_file,
    stored_entry,
    write_tensors,
    write_text,
)
from aweigh_runtime.fields import read_object
from aweigh_runtime.model.header import StoredTensor, read_header
from aweigh_runtime.model.shards import INDEX, OTHER_FORMATS, SINGLE

SHARD_BYTES = 4_000_000_000
_NOT_COPIED = (".safetensors", *OTHER_FORMATS)
_REWRITTEN = ("config.json", "README.md", INDEX)
_LARGEST_COPY_BYTES = 1 << 27  # of a file that is neither weights nor described here


def write_result(
    folder: Path,
    checkpoint: Checkpoint,
    layers: Sequence[Path],
    declared: dict[str, Any],
    shard_bytes: int = SHARD_BYTES,
) -> Sizes:
    """Write all but the model card.

    Args:
        folder: empty, or left by a run that was killed: it begins anew.
        checkpoint: the dense model, of which everything else is taken.
        layers: files of quantized layers.
        declared: `quantization_config`.
        shard_bytes: most of a file, unless a tensor alone has more.

    Raises:
        CannotWrite: there is no room.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise CannotWrite(folder, error) from error
    _copy_others(checkpoint.directory, folder)
    config = read_object(checkpoint.directory / "config.json")
    config["quantization_config"] = declared
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    shards = list(_shards(list(_entries(checkpoint, layers)), shard_bytes))
    names = _names(len(shards))
    for name, entries in zip(names, shards, strict=True):
        write_tensors(folder / name, entries)
    if len(shards) > 1:
        write_text(folder / INDEX, _index(names, shards))
    return _sizes(checkpoint, [each for shard in shards for each in shard])


def _sizes(checkpoint: Checkpoint, entries: Sequence[Entry]) -> Sizes:
    dense = {tensor.name: tensor for tensor in checkpoint.stored.values()}
    left = {each.name for each in entries if _is_same(each, dense)}
    names = set(dense)
    gone = {
        checkpoint.own_name(place): math.prod(place.shape)
        for place in layer_matrices(checkpoint.config)
        if checkpoint.own_name(place) not in left
    }
    return Sizes(
        dense=sum(tensor.num_bytes for tensor in dense.values()),
        written=sum(each.num_bytes for each in entries),
        dense_matrices=sum(dense[name].num_bytes for name in gone),
        matrices=sum(each.num_bytes for each in entries if _owner(each.name, names) in gone),
        num_weights=sum(gone.values()),
    )


def _is_same(each: Entry, dense: Mapping[str, StoredTensor]) -> bool:
    found = dense.get(each.name)
    return found is not None and found.dtype == each.dtype


def _entries(checkpoint: Checkpoint, layers: Sequence[Path]) -> Iterator[Entry]:
    """In the order of the dense model's files; new tensors stand where the old one stood."""
    dense = sorted(checkpoint.stored.values(), key=lambda tensor: (tensor.path, tensor.start))
    names = {tensor.name for tensor in dense}
    replaced: dict[str, list[StoredTensor]] = {}
    for path in layers:
        for tensor in read_header(path):
            replaced.setdefault(_owner(tensor.name, names), []).append(tensor)
    for tensor in dense:
        yield from map(stored_entry, replaced.pop(tensor.name, [tensor]))
    for added in replaced.values():
        yield from map(stored_entry, added)


def _owner(name: str, dense: set[str]) -> str:
    """The dense tensor in whose place a new one stands; itself if it stands in none's."""
    weight = f"{name.rpartition('.')[0]}.weight"
    return weight if name not in dense and weight in dense else name


def _shards(entries: Sequence[Entry], most: int) -> Iterator[list[Entry]]:
    shard: list[Entry] = []
    size = 0
    for each in entries:
        if shard and size + each.num_bytes > most:
            yield shard
            shard, size = [], 0
        shard.append(each)
        size += each.num_bytes
    yield shard


def _names(count: int) -> list[str]:
    if count == 1:
        return [SINGLE]
    return [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def _index(names: Sequence[str], shards: Sequence[Sequence[Entry]]) -> str:
    weight_map = {
        each.name: name for name, shard in zip(names, shards, strict=True) for each in shard
    }
    total = sum(each.num_bytes for shard in shards for each in shard)
    found = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return json.dumps(found, indent=2) + "\n"


def _copy_others(source: Path, target: Path) -> None:
    """Tokenizer, chat template, generation settings, license: what is neither weights nor ours."""
    for path in sorted(source.iterdir()):
        if path.is_file() and _is_copied(path):
            copy_file(path, target / path.name)


def _is_copied(path: Path) -> bool:
    weights = path.suffix in _NOT_COPIED or path.name in _REWRITTEN
    hidden = path.name.startswith(".")
    return not weights and not hidden and path.stat().st_size <= _LARGEST_COPY_BYTES
