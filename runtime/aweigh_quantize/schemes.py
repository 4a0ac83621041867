"""Which method makes which kind of weight. The methods themselves know no model."""

from collections.abc import Sequence

import torch

from aweigh_kernels.fp8_weight import Fp8Activation
from aweigh_kernels.weight import Weight
from aweigh_quantize.methods import awq, fp4, fp8, gptq, rtn, smooth, sparse
from aweigh_quantize.methods.grid import WHOLE_ROW, Grid
from aweigh_quantize.methods.inputs import FEWEST_TOKENS, Inputs
from aweigh_quantize.recipe import Precision, Recipe


def needs_inputs(recipe: Recipe) -> bool:
    """Whether the inputs of a matrix decide about it."""
    made_up_for = recipe.scheme in ("gptq", "awq", "fp8", "nvfp4")
    return made_up_for or recipe.rounding == "static" or recipe.sparse


def searches(recipe: Recipe) -> bool:
    """Whether scales are moved between operations."""
    return recipe.scheme == "awq" or (recipe.scheme == "int8" and recipe.rounding != "none")


def scales(recipe: Recipe, weights: Sequence[torch.Tensor], inputs: Inputs) -> torch.Tensor:
    """What the columns of matrices [N, K] that see the same inputs are multiplied with, [K]."""
    if recipe.scheme == "awq":
        return awq.scales(weights, inputs, grid_of(recipe, recipe.precision))
    return smooth.scales(weights, inputs, recipe.smoothing)


def quantized(recipe: Recipe, precision: Precision, weight: torch.Tensor, inputs: Inputs) -> Weight:
    """One matrix as a recipe wants it.

    Args:
        recipe: of the model.
        precision: of this matrix, where the scheme has several.
        weight: [N, K], fp32.
        inputs: what it is multiplied with. An expert that is hardly ever chosen has too few: then
            they do not count.

    Raises:
        ValueError: weights are not finite, or static activations have too few inputs.
    """
    enough = inputs if inputs.num_tokens >= FEWEST_TOKENS else None
    match recipe.scheme:
        case "int8":
            return _int8(recipe, weight, inputs)
        case "fp8":
            activation = _fp8_activation(recipe, inputs)
            return fp8.quantize(weight, recipe.granularity, activation, "mse", inputs=enough)
        case "nvfp4":
            scale = None if recipe.rounding == "none" else fp4.activation_scale(inputs)
            return fp4.quantize(weight, scale, inputs=enough)
        case _:
            return _integers(recipe, weight, inputs, grid_of(recipe, precision))


def grid_of(recipe: Recipe, precision: Precision) -> Grid:
    """What weights become where activations stay as they are."""
    return Grid(bits=precision.bits, group=precision.group_size, symmetric=recipe.is_symmetric)


def _integers(recipe: Recipe, weight: torch.Tensor, inputs: Inputs, grid: Grid) -> Weight:
    if recipe.scheme == "rtn" or inputs.num_tokens < FEWEST_TOKENS:
        return (sparse.magnitude if recipe.sparse else rtn.quantize)(weight, grid)
    if recipe.scheme == "awq":
        return awq.quantize(weight, grid, awq.clip(weight, inputs, grid))
    options = gptq.Options(
        damping=recipe.damping, act_order=recipe.act_order, static_groups=recipe.static_groups
    )
    return (sparse.quantize if recipe.sparse else gptq.quantize)(weight, inputs, grid, options)


def _int8(recipe: Recipe, weight: torch.Tensor, inputs: Inputs) -> Weight:
    if recipe.rounding == "none":
        return rtn.quantize(weight, Grid(bits=8, group=WHOLE_ROW))
    static = recipe.rounding == "static"
    return smooth.quantize(weight, activation=smooth.activation(inputs) if static else None)


def _fp8_activation(recipe: Recipe, inputs: Inputs) -> Fp8Activation | None:
    if recipe.rounding == "none":
        return None
    if recipe.rounding == "static":
        return fp8.activation(inputs)
    return Fp8Activation(rounding="group" if recipe.granularity == "block" else "token")
