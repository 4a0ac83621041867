"""Small checkpoints whose matrices are quantized, each beside a dense one that means the same."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from aweigh_kernels.weight import Weight
from aweigh_runtime.formats.layout import Layout

Quantize = Callable[[torch.Tensor], Weight]
Rule = Callable[[str], tuple[Layout, Quantize] | None]  # by module; None: it stays dense


@dataclass(frozen=True)
class Twins:
    """Two checkpoints with the same meaning, activations apart."""

    quantized: Path
    dense: Path


def quantized_twins(
    source: Path, directory: Path, rule: Rule, description: Mapping[str, Any]
) -> Twins:
    """Quantize a dense checkpoint of one file.

    Args:
        source: the checkpoint.
        directory: where both are written.
        rule: what becomes of each module's weight.
        description: quantization_config.
    """
    stored, dense = load_file(source / "model.safetensors"), {}
    quantized: dict[str, torch.Tensor] = {}
    for name, tensor in stored.items():
        module = name.removesuffix(".weight")
        chosen = rule(module) if name.endswith(".weight") and tensor.dim() == 2 else None
        if chosen is None:
            quantized[name] = dense[name] = tensor
            continue
        layout, quantize = chosen
        weight = quantize(tensor.float())
        dense[name] = weight.dense()
        parts = layout.write(weight)
        quantized |= {f"{module}.{suffix}": part.contiguous() for suffix, part in parts.items()}
    twins = Twins(directory / "quantized", directory / "dense")
    config = json.loads((source / "config.json").read_text())
    _write(source, twins.dense, dense, config)
    _write(source, twins.quantized, quantized, {**config, "quantization_config": dict(description)})
    return twins


def change(directory: Path, **tensors: torch.Tensor | None) -> None:
    """Replace, add or (None) remove tensors; two underscores stand for a dot."""
    path = directory / "model.safetensors"
    stored = load_file(path)
    for name, tensor in tensors.items():
        stored.pop(name.replace("__", "."), None)
        if tensor is not None:
            stored[name.replace("__", ".")] = tensor
    save_file(stored, path)


def _write(
    source: Path, target: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any]
) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
    save_file(tensors, target / "model.safetensors")
    (target / "config.json").write_text(json.dumps(config))


def round_to(bits: int, group: int, **fields: Any) -> Quantize:
    """To the nearest, symmetric."""
    from aweigh_kernels.int_weight import IntWeight

    def quantize(weight: torch.Tensor) -> Weight:
        rows, columns = weight.shape
        groups = weight.view(rows, columns // group, group)
        scale = (groups.abs().amax(-1) / (2 ** (bits - 1) - 0.5)).half()
        q = (groups / scale.float()[..., None]).round().add(2 ** (bits - 1))
        q = q.clamp(0, 2**bits - 1).to(torch.uint8).view(rows, columns)
        return IntWeight(q=q, scale=scale, bits=bits, group=group, **fields)

    return quantize
