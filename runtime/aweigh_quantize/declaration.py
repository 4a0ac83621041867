"""What config.json says of a quantized model. Data; what it means is what the runtime reads of it.

Integers without rounded activations are written as GPTQ or AWQ files, 2:4 ones as Marlin-24,
everything else as compressed-tensors or, where it has scales that only this method knows, as fp8.
With a cache in fp8 all is compressed-tensors, the only one of them that declares how keys and
values are kept.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aweigh_kernels.fp8_weight import BLOCK
from aweigh_quantize.recipe import WHOLE_ROW, Precision, Recipe
from aweigh_runtime.fields import Fields
from aweigh_runtime.formats.checkpoint import quantization
from aweigh_runtime.formats.layout import Quantization

_HEAD = "lm_head"
_FP4_GROUP = 16

_Precisions = Mapping[str, Precision | None]


@dataclass(frozen=True, slots=True)
class Declared:
    """The entry of config.json, and how the runtime reads it."""

    config: dict[str, Any]
    quantization: Quantization


def declare(recipe: Recipe, precisions: _Precisions, routers: Sequence[str] = ()) -> Declared:
    """Say how each module is stored.

    Args:
        recipe: of the model.
        precisions: by module, of those that could be quantized; None: dense.
        routers: modules that never are. Not every reader knows that of itself.
    """
    config = _config(recipe, {**precisions, **dict.fromkeys(routers)})
    return Declared(config, quantization(Fields(Path("config.json"), config)))


def _config(recipe: Recipe, precisions: _Precisions) -> dict[str, Any]:
    dense = [module for module, precision in precisions.items() if precision is None]
    if recipe.kv_cache is not None:
        return _compressed_tensors(recipe, precisions, dense)
    if recipe.sparse:
        return _marlin24(recipe)
    match recipe.scheme:
        case "gptq" | "rtn":
            return _gptq(recipe, precisions)
        case "awq" if recipe.budget is None:
            return _awq(recipe, dense)
        case "awq":
            return _gptq(recipe, precisions)
        case "fp8" if recipe.granularity != "channel" and recipe.rounding != "none":
            return _fp8(recipe, dense)
        case _:
            return _compressed_tensors(recipe, precisions, dense)


def _gptq(recipe: Recipe, precisions: _Precisions) -> dict[str, Any]:
    """Version 1, where it can hold the zero points; GPTQModel's rules for what differs."""
    rules: dict[str, dict[str, int]] = {}
    for module, precision in precisions.items():
        if precision is None:
            rules[f"-:^{re.escape(module)}$"] = {}
        elif precision != recipe.precision:
            rules[f"+:^{re.escape(module)}$"] = asdict(precision)
    found: dict[str, Any] = {
        "quant_method": "gptq",
        "checkpoint_format": "gptq" if recipe.is_symmetric else "gptq_v2",
        "bits": recipe.bits,
        "group_size": recipe.group_size,
        "sym": recipe.is_symmetric,
        "desc_act": recipe.reorders,
        "lm_head": False,
    }
    if recipe.scheme == "gptq":
        found |= {
            "damp_percent": recipe.damping,
            "static_groups": recipe.static_groups,
            "true_sequential": True,
        }
    return found | ({"dynamic": rules} if rules else {})


def _marlin24(recipe: Recipe) -> dict[str, Any]:
    return {
        "quant_method": "gptq",
        "checkpoint_format": "marlin_24",
        "bits": recipe.bits,
        "group_size": recipe.group_size,
        "sym": True,
        "desc_act": False,
        "lm_head": False,
    }


def _awq(recipe: Recipe, dense: Sequence[str]) -> dict[str, Any]:
    return {
        "quant_method": "awq",
        "version": "gemm",
        "bits": recipe.bits,
        "group_size": recipe.group_size,
        "zero_point": not recipe.is_symmetric,
        "modules_to_not_convert": list(dense) or None,
    }


def _fp8(recipe: Recipe, dense: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "static" if recipe.rounding == "static" else "dynamic",
        "ignored_layers": [_HEAD, *dense],
    }
    if recipe.granularity == "block":
        found["weight_block_size"] = [BLOCK, BLOCK]
    return found


def _compressed_tensors(
    recipe: Recipe, precisions: _Precisions, dense: Sequence[str]
) -> dict[str, Any]:
    targets: dict[Precision, list[str]] = {recipe.precision: ["Linear"]}
    for module, precision in precisions.items():
        if precision not in (None, recipe.precision):
            targets.setdefault(precision, []).append(module)
    groups = {
        f"group_{index}": {"targets": names, **_numbers(recipe, precision)}
        for index, (precision, names) in enumerate(targets.items())
    }
    return {
        "quant_method": "compressed-tensors",
        "format": _compressed_format(recipe),
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": [_HEAD, *dense],
        "kv_cache_scheme": None if recipe.kv_cache is None else _rounded(8, "float", "tensor"),
    }


def _compressed_format(recipe: Recipe) -> str:
    if recipe.sparse:
        return "marlin-24"
    if recipe.scheme == "nvfp4":
        return "nvfp4-pack-quantized"
    if recipe.scheme == "fp8":
        return "naive-quantized" if recipe.rounding == "none" else "float-quantized"
    return "pack-quantized" if recipe.rounding == "none" else "int-quantized"


def _numbers(recipe: Recipe, precision: Precision) -> dict[str, Any]:
    """How weights and activations of a group of modules are rounded."""
    match recipe.scheme:
        case "int8":
            return _int8(recipe)
        case "fp8":
            return _float8(recipe)
        case "nvfp4":
            return _nvfp4(recipe)
        case _:
            return {"weights": _integers(recipe, precision)}


def _integers(recipe: Recipe, precision: Precision) -> dict[str, Any]:
    strategy = "channel" if precision.group_size == WHOLE_ROW else "group"
    found = _rounded(precision.bits, "int", strategy) | {"symmetric": recipe.is_symmetric}
    if strategy == "group":
        found["group_size"] = precision.group_size
    return found | ({"actorder": "group"} if recipe.reorders else {})


def _int8(recipe: Recipe) -> dict[str, Any]:
    weights = _rounded(8, "int", "channel")
    if recipe.rounding == "none":
        return {"weights": weights}
    return {"weights": weights, "input_activations": _activations(recipe, "int")}


def _float8(recipe: Recipe) -> dict[str, Any]:
    weights = _rounded(8, "float", recipe.granularity)
    if recipe.granularity == "block":
        weights["block_structure"] = [BLOCK, BLOCK]
    if recipe.rounding == "none":
        return {"weights": weights}
    return {"weights": weights, "input_activations": _activations(recipe, "float")}


def _nvfp4(recipe: Recipe) -> dict[str, Any]:
    weights = _rounded(4, "float", "tensor_group") | {"group_size": _FP4_GROUP}
    found: dict[str, Any] = {"weights": weights}
    if recipe.rounding != "none":
        found["input_activations"] = weights | {"dynamic": "local"}
    return found


def _activations(recipe: Recipe, kind: str) -> dict[str, Any]:
    if recipe.rounding == "static":
        return _rounded(8, kind, "tensor")
    if recipe.granularity == "block" and recipe.scheme == "fp8":
        return _rounded(8, kind, "group") | {"group_size": BLOCK, "dynamic": True}
    return _rounded(8, kind, "token") | {"dynamic": True}


def _rounded(num_bits: int, kind: str, strategy: str) -> dict[str, Any]:
    return {
        "num_bits": num_bits,
        "type": kind,
        "symmetric": True,
        "strategy": strategy,
        "dynamic": False,
    }
