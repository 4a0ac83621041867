"""What config.json says of a quantized model. Data; what it means is what the runtime reads of it.

Integers without rounded activations are written as GPTQ or AWQ files, 2:4 ones as Marlin-24,
everything else as compressed-tensors or, where it has scales that only this method knows, as fp8.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aweigh_kernels.fp8_weight import BLOCK
from aweigh_quantize.recipe import Recipe
from aweigh_runtime.fields import Fields
from aweigh_runtime.formats.checkpoint import quantization
from aweigh_runtime.formats.layout import Quantization

_HEAD = "lm_head"
_FP4_GROUP = 16


@dataclass(frozen=True, slots=True)
class Declared:
    """The entry of config.json, and how the runtime reads it."""

    config: dict[str, Any]
    quantization: Quantization


def declare(
    recipe: Recipe, bits: Mapping[str, int | None], routers: Sequence[str] = ()
) -> Declared:
    """Say how each module is stored.

    Args:
        recipe: of the model.
        bits: by module, of those that could be quantized; None: dense.
        routers: modules that never are. Not every reader knows that of itself.
    """
    all_bits = {**bits, **dict.fromkeys(routers)}
    dense = [module for module, count in all_bits.items() if count is None]
    config = _config(recipe, all_bits, dense)
    return Declared(config, quantization(Fields(Path("config.json"), config)))


def _config(recipe: Recipe, bits: Mapping[str, int | None], dense: Sequence[str]) -> dict[str, Any]:
    if recipe.sparse:
        return _marlin24(recipe)
    match recipe.scheme:
        case "gptq" | "rtn":
            return _gptq(recipe, bits)
        case "awq" if recipe.budget is None:
            return _awq(recipe, dense)
        case "awq":
            return _gptq(recipe, bits)
        case "fp8" if recipe.granularity != "channel" and recipe.rounding != "none":
            return _fp8(recipe, dense)
        case _:
            return _compressed_tensors(recipe, dense)


def _gptq(recipe: Recipe, bits: Mapping[str, int | None]) -> dict[str, Any]:
    """Version 1, where it can hold the zero points; GPTQModel's rules for what differs."""
    rules: dict[str, dict[str, int]] = {}
    for module, count in bits.items():
        if count is None:
            rules[f"-:^{re.escape(module)}$"] = {}
        elif count != recipe.bits:
            rules[f"+:^{re.escape(module)}$"] = {"bits": count}
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


def _compressed_tensors(recipe: Recipe, dense: Sequence[str]) -> dict[str, Any]:
    numbers = {"int8": _int8, "fp8": _float8, "nvfp4": _nvfp4}[recipe.scheme](recipe)
    format_ = numbers.pop("format")
    return {
        "quant_method": "compressed-tensors",
        "format": format_,
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], **numbers}},
        "ignore": [_HEAD, *dense],
        "kv_cache_scheme": None,
    }


def _int8(recipe: Recipe) -> dict[str, Any]:
    if recipe.rounding == "none":
        weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
        return {"format": "pack-quantized", "weights": weights}
    return {
        "format": "int-quantized",
        "weights": _rounded(8, "int", "channel"),
        "input_activations": _activations(recipe, "int"),
    }


def _float8(recipe: Recipe) -> dict[str, Any]:
    weights = _rounded(8, "float", recipe.granularity)
    if recipe.granularity == "block":
        weights["block_structure"] = [BLOCK, BLOCK]
    if recipe.rounding == "none":
        return {"format": "naive-quantized", "weights": weights}
    activations = _activations(recipe, "float")
    return {"format": "float-quantized", "weights": weights, "input_activations": activations}


def _nvfp4(recipe: Recipe) -> dict[str, Any]:
    weights = _rounded(4, "float", "tensor_group") | {"group_size": _FP4_GROUP}
    found: dict[str, Any] = {"format": "nvfp4-pack-quantized", "weights": weights}
    if recipe.rounding != "none":
        found["input_activations"] = weights | {"dynamic": "local"}
    return found


def _activations(recipe: Recipe, kind: str) -> dict[str, Any]:
    if recipe.rounding == "static":
        return _rounded(8, kind, "tensor")
    return _rounded(8, kind, "token") | {"dynamic": True}


def _rounded(num_bits: int, kind: str, strategy: str) -> dict[str, Any]:
    return {
        "num_bits": num_bits,
        "type": kind,
        "symmetric": True,
        "strategy": strategy,
        "dynamic": False,
    }
