"""Mixed precision: how fine the integers of each matrix are, for an average size.

Bits and groups are chosen together: a finer group costs bits, too. Matrices that a model multiplies
with together (q, k and v; gate and up; all experts) get the same: servers fuse them. Each such
product alone is rounded, and what that loses is measured; the losses of all are taken to add up.
"""

import math
from collections.abc import Mapping, Sequence

import torch

from aweigh_quantize import product_losses
from aweigh_quantize.checkpoint import Checkpoint
from aweigh_quantize.declaration import declare
from aweigh_quantize.methods import sensitivity
from aweigh_quantize.one_layer import layer_matrices
from aweigh_quantize.passage import Passage
from aweigh_quantize.product_losses import DENSE, Progress, measured, some
from aweigh_quantize.recipe import Precision, Recipe, RecipeError
from aweigh_quantize.texts import Text
from aweigh_runtime.model.placement import Place


def budgeted(
    checkpoint: Checkpoint,
    recipe: Recipe,
    kept: frozenset[str],
    texts: Sequence[Text],
    device: torch.device,
    progress: Progress,
) -> dict[str, Precision | None]:
    """The precision of each matrix: all fit the recipe's budget and lose least; None: dense.

    Args:
        checkpoint: the dense model.
        recipe: with a budget.
        kept: modules that stay dense whatever it costs, and do not count.
        texts: to measure with.
        device: where.
        progress: `num_advances` of them.

    Raises:
        RecipeError: not even the fewest bits fit the budget.
    """
    free = _free(checkpoint, kept)
    _expect_possible(checkpoint, recipe, free)
    passage = Passage(checkpoint, some(texts), device)
    losses = measured(checkpoint, recipe, free, passage, progress)
    return dict.fromkeys(kept) | assigned(checkpoint, recipe, free, losses)


def num_advances(checkpoint: Checkpoint, kept: frozenset[str]) -> dict[str, int]:
    """How often `budgeted` advances, by the names of what it remembers."""
    return product_losses.num_advances(checkpoint, _free(checkpoint, kept))


def assigned(
    checkpoint: Checkpoint,
    recipe: Recipe,
    places: Mapping[str, Place],
    losses: Mapping[str, Mapping[str, float]],
) -> dict[str, Precision | None]:
    """The precision of each module, such that all fit the budget, which is enough for the least.

    `losses`: by product and precision, as `measured` gives them.
    """
    assert recipe.budget is not None
    sizes = product_sizes(checkpoint, recipe, places)
    meant = {str(each): each for each in recipe.choices}
    chosen = sensitivity.assign(losses, sizes, round(recipe.budget * _num_weights(places)))
    return {module: meant.get(chosen[place.weight]) for module, place in places.items()}


def products(places: Mapping[str, Place]) -> dict[str, dict[str, Place]]:
    """The matrices of each, by module: they fill rows of one weight, whose name is the key."""
    found: dict[str, dict[str, Place]] = {}
    for module, place in places.items():
        found.setdefault(place.weight, {})[module] = place
    return found


def product_sizes(
    checkpoint: Checkpoint, recipe: Recipe, places: Mapping[str, Place]
) -> dict[str, dict[str, int]]:
    """Bits that a product's matrices take, by precision."""
    found: dict[str, dict[str, int]] = {}
    for product, matrices in products(places).items():
        each = [option_sizes(checkpoint, recipe, place) for place in matrices.values()]
        found[product] = {option: sum(sizes[option] for sizes in each) for option in each[0]}
    return found


def option_sizes(checkpoint: Checkpoint, recipe: Recipe, place: Place) -> dict[str, int]:
    """Bits that a matrix takes in each precision, scales and all."""
    stored = checkpoint.stored[place.name]
    module = stored.name.removesuffix(".weight")
    found = {DENSE: 8 * stored.num_bytes}
    for precision in recipe.choices:
        layout = declare(recipe, {module: precision}).quantization.layout_of(module)
        assert layout is not None
        parts = layout.parts(place.shape[0], place.shape[1])
        found[str(precision)] = 8 * sum(part.num_bytes for part in parts.values())
    return found


def _expect_possible(checkpoint: Checkpoint, recipe: Recipe, places: Mapping[str, Place]) -> None:
    """Refuse before hours of measuring what nothing fits."""
    assert recipe.budget is not None
    sizes = product_sizes(checkpoint, recipe, places)
    least = sum(min(options.values()) for options in sizes.values()) / _num_weights(places)
    if recipe.budget < least:
        raise RecipeError(
            f"--budget is {recipe.budget:g} bits; expected at least {least:.2f}, which 2 bits and "
            f"their scales take in groups of {recipe.group_size}"
        )


def _num_weights(places: Mapping[str, Place]) -> int:
    return sum(math.prod(place.shape) for place in places.values())


def _free(checkpoint: Checkpoint, kept: frozenset[str]) -> dict[str, Place]:
    """The matrices of which not all is said yet, by module."""
    places = {checkpoint.module(place): place for place in layer_matrices(checkpoint.config)}
    return {module: place for module, place in places.items() if module not in kept}
