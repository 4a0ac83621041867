"""From a model directory to a decoder whose weights are in place. It runs no code of the model.

Files are mapped, not read: each tensor goes from the page cache straight to its rows of the final
parameter, converted on the way, so memory holds the weights once.
"""

from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path

import torch

from aweigh_api.spec import DTypeName
from aweigh_runtime.failures import (
    ModelDoesNotFit,
    ModelUnreadable,
    UnsupportedModel,
)
from aweigh_runtime.model.architectures import read_config
from aweigh_runtime.model.arithmetic import Fast
from aweigh_runtime.model.config import ModelConfig
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.exact import Exact
from aweigh_runtime.model.footprint import model_len, weight_bytes
from aweigh_runtime.model.header import StoredTensor
from aweigh_runtime.model.mapped import fill, mapped
from aweigh_runtime.model.memory import available_bytes
from aweigh_runtime.model.number_format import STORED, compute_dtype
from aweigh_runtime.model.placement import EMBEDDING, Place, canonical, ignored, places
from aweigh_runtime.model.shards import stored_tensors
from aweigh_runtime.model.storage import Storage

_MOST_NAMES = 1000  # of tensors that are missing: a wrong config may imply any number

Progress = Callable[[int, int], None]  # bytes done, bytes in total


def load(
    directory: Path,
    dtype: DTypeName,
    device: torch.device,
    max_model_len: int | None,
    progress: Progress,
    exact: bool = False,
) -> Decoder:
    """Load a model.

    Args:
        directory: holds config.json and *.safetensors.
        dtype: of weights and activations; auto: the checkpoint's (see `compute_dtype`).
        device: where the weights go.
        max_model_len: tokens of prompt and answer together; None: what the model was made for.
        progress: called after each tensor.
        exact: a request's logits never depend on what else is in the step; slower.

    Raises:
        ModelNotFound, ModelUnreadable, UnsupportedModel: the directory holds no model that can run.
        ModelDoesNotFit: the weights exceed the free memory.
        InvalidConfiguration: max_model_len exceeds the model's positions.
    """
    config = read_config(directory)
    length = model_len(config, max_model_len)
    stored = {canonical(name, config): tensor for name, tensor in stored_tensors(directory).items()}
    homes = homes_of(directory, config, stored)
    chosen = compute_dtype(dtype, _checkpoint_dtype(config, stored), device)
    _expect_room(directory, config, chosen, device)
    decoder = Decoder(config, length, Storage(chosen, device, Exact() if exact else Fast()))
    _fill(decoder, homes, [stored[name] for name in homes], progress)
    decoder.settle()
    return decoder


def homes_of(
    directory: Path, config: ModelConfig, stored: Mapping[str, StoredTensor]
) -> dict[str, Place]:
    """The place of each tensor, once the checkpoint has all of them and no other.

    Args:
        directory: named in messages.
        config: of the model.
        stored: by canonical name.

    Raises:
        ModelUnreadable, UnsupportedModel: it has not.
    """
    missing = (place.name for place in places(config) if place.name not in stored)
    if some := list(islice(missing, _MOST_NAMES)):
        raise ModelUnreadable(f"{directory} lacks {_some(some)}, which its config.json implies")
    homes = {place.name: place for place in places(config)}
    extra = [name for name in stored if name not in homes and not ignored(name, config)]
    if extra:
        raise ModelUnreadable(
            f"{directory} has {_some(extra)}, which its config.json does not account for"
        )
    _check(homes, stored)
    return homes


def _check(homes: Mapping[str, Place], stored: Mapping[str, StoredTensor]) -> None:
    for name, place in homes.items():
        found = stored[name]
        if found.shape != place.shape:
            raise ModelUnreadable(
                f"{found.path}: tensor {name} is {list(found.shape)}; the config.json implies "
                f"{list(place.shape)}"
            )
        if found.dtype not in STORED:
            raise UnsupportedModel(
                f"{found.path}: tensor {name} is stored as {found.dtype}; supported: "
                f"{', '.join(STORED)}"
            )


def _checkpoint_dtype(config: ModelConfig, stored: Mapping[str, StoredTensor]) -> torch.dtype:
    by_name = {str(dtype).removeprefix("torch."): dtype for dtype in STORED.values()}
    if config.dtype in by_name:
        return by_name[config.dtype]
    return STORED[stored[EMBEDDING].dtype]


def _expect_room(
    directory: Path, config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> None:
    needed = weight_bytes(config, dtype.itemsize)
    free = available_bytes(device)
    if needed > free:
        raise ModelDoesNotFit(
            f"the weights of {directory} need {needed / 1e9:.2f} GB in {dtype}, and "
            f"{free / 1e9:.2f} GB are free on {device}; give the pod more memory or serve a "
            "smaller model"
        )


def _fill(
    decoder: Decoder,
    homes: Mapping[str, Place],
    stored: list[StoredTensor],
    progress: Progress,
) -> None:
    total = sum(tensor.num_bytes for tensor in stored)
    done = 0
    progress(done, total)
    for tensor, values in mapped(stored):
        place = homes[canonical(tensor.name, decoder.config)]
        fill(decoder.weights[place.weight], place, values)
        done += tensor.num_bytes
        progress(done, total)


def _some(names: list[str]) -> str:
    count = f"{len(names) - 1} more" if len(names) < _MOST_NAMES else "many more"
    more = f" and {count} tensors" if len(names) > 1 else ""
    return f"tensor {names[0]}{more}"
