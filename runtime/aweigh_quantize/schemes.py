"""Which method makes which kind of weight. The methods themselves know no model."""

import torch

from aweigh_kernels.weight import Weight
from aweigh_quantize.methods import gptq, rtn
from aweigh_quantize.methods.gptq import Options
from aweigh_quantize.methods.grid import Grid
from aweigh_quantize.methods.inputs import FEWEST_TOKENS, Inputs
from aweigh_quantize.recipe import Recipe


def needs_inputs(recipe: Recipe) -> bool:
    """Whether the inputs of a matrix decide about it."""
    return recipe.scheme in ("gptq", "awq", "int8") or recipe.rounding == "static" or recipe.sparse


def quantized(recipe: Recipe, bits: int, weight: torch.Tensor, inputs: Inputs) -> Weight:
    """One matrix as a recipe wants it.

    Args:
        recipe: of the model.
        bits: of this matrix.
        weight: [N, K], fp32.
        inputs: what it is multiplied with. Of too few tokens, as an expert that is hardly ever
            chosen has them, only the range counts.
    """
    grid = Grid(bits=bits, group=recipe.group_size, symmetric=recipe.is_symmetric)
    if recipe.scheme == "rtn" or inputs.num_tokens < FEWEST_TOKENS:
        return rtn.quantize(weight, grid)
    options = Options(
        damping=recipe.damping, act_order=recipe.act_order, static_groups=recipe.static_groups
    )
    return gptq.quantize(weight, inputs, grid, options)
