"""Finds the weight files of a model directory. It follows no path that leads out of it."""

from pathlib import Path

from aweigh_runtime.failures import ModelUnreadable
from aweigh_runtime.fields import read_object
from aweigh_runtime.model.header import StoredTensor, read_header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
OTHER_FORMATS = (".bin", ".pt", ".pth", ".pkl", ".gguf", ".ckpt", ".h5", ".msgpack", ".onnx")


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor of the model by name.

    Raises:
        ModelUnreadable: no safetensors file, a missing shard, a path out of the directory, an
            index that contradicts the shards, or a file that is no valid safetensors file.
    """
    index = directory / INDEX
    if index.is_file():
        return _indexed(directory, index)
    return {tensor.name: tensor for tensor in read_header(_only_file(directory))}


def _only_file(directory: Path) -> Path:
    found = sorted(path.name for path in directory.glob("*.safetensors"))
    if SINGLE in found:
        found = [SINGLE]
    if len(found) == 1:
        return _inside(directory, found[0])
    if found:
        raise ModelUnreadable(
            f"{directory} has {len(found)} safetensors files but no {INDEX}; copy the index too"
        )
    others = sorted(path.name for path in directory.iterdir() if path.suffix in OTHER_FORMATS)
    if others:
        raise ModelUnreadable(
            f"{directory} has weights only as {others[0]}; expected *.safetensors: convert the "
            "model, because other formats can run code or are not supported"
        )
    raise ModelUnreadable(f"{directory} has no weights; expected *.safetensors")


def _indexed(directory: Path, index: Path) -> dict[str, StoredTensor]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(map(_is_text, weight_map.values())):
        raise ModelUnreadable(f"{index}: weight_map must be an object of tensor and file names")
    stored: dict[str, StoredTensor] = {}
    for shard in sorted(set(weight_map.values())):
        stored |= {
            tensor.name: tensor
            for tensor in read_header(_inside(directory, shard))
            if weight_map.get(tensor.name) == shard
        }
    for name in weight_map:
        if name not in stored:
            raise ModelUnreadable(f"{index} says that {weight_map[name]} has {name}; it does not")
    return stored


def _inside(directory: Path, name: str) -> Path:
    """The file `name`, if it lies in the directory, or where a Hugging Face cache links to."""
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise ModelUnreadable(
            f"{directory / INDEX} names the file {name!r}; expected a plain file name"
        )
    path, home = directory / name, directory.resolve()
    if not path.is_file():
        raise ModelUnreadable(f"{directory} lacks the weight file {name}; copy the model again")
    roots = [home]
    if home.parent.name == "snapshots":
        roots.append(home.parent.parent / "blobs")
    if not any(path.resolve().is_relative_to(root) for root in roots):
        raise ModelUnreadable(
            f"{path} links out of the model's directory; expected the file itself"
        )
    return path


def _is_text(value: object) -> bool:
    return isinstance(value, str)
