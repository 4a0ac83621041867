"""Mixed precision: how fine the integers of each matrix are, for an average size.

Bits and groups are chosen together: a finer group costs bits, too. Matrices that a model multiplies
with together (q, k and v; gate and up; all experts) get the same: servers fuse them. Each such
product alone is rounded to 4 bits in the dense model, and what that loses is measured: nats per
token over some texts. For other precisions the loss is taken to grow as the squared error of the
weights does. The losses of all products are taken to add up.

One layer is in memory at a time: the texts go through the model once for each product at the same
time, from the layer of that product on.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from aweigh_quantize.checkpoint import Checkpoint
from aweigh_quantize.declaration import declare
from aweigh_quantize.evaluation import document
from aweigh_quantize.methods import rtn, sensitivity
from aweigh_quantize.one_layer import Matrix, OneLayer, layer_matrices
from aweigh_quantize.passage import Passage
from aweigh_quantize.recipe import BITS, Precision, Recipe, RecipeError
from aweigh_quantize.schemes import grid_of
from aweigh_quantize.texts import Text
from aweigh_runtime.model.placement import Place, layer_places

MEASURED_BITS = 4
SMALLEST_GROUP = 32
DENSE = "dense"
_MOST_TOKENS = 2048  # to measure with
# Layers whose products go through the model at the same time. Each product holds its texts' hidden
# states: 64 MiB at a width of 8,192. Each time all layers are read once more.
_TOGETHER = 8

Advance = Callable[[], None]
Losses = dict[str, dict[str, float]]
"""By product and precision, nats per token."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Of measuring, which may take hours."""

    advance: Advance  # one product has gone through one layer
    remember: Callable[[str, Callable[[], Losses]], Losses]
    """Find something out, by name, unless an earlier run has."""


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
    losses = measured(checkpoint, recipe, free, texts, device, progress)
    return dict.fromkeys(kept) | assigned(checkpoint, recipe, free, losses)


def num_advances(checkpoint: Checkpoint, kept: frozenset[str]) -> dict[str, int]:
    """How often `budgeted` advances, by the names of what it remembers."""
    weights = {place.weight for place in _free(checkpoint, kept).values()}
    config, count = checkpoint.config, checkpoint.config.num_layers
    found = {}
    for name, some in _runs(count).items():
        found[name] = 0
        for index in some:
            here = {place.weight for place in layer_places(config, config.layers[index], index)}
            found[name] += len(here & weights) * (count - index)
    return found


def products(places: Mapping[str, Place]) -> dict[str, dict[str, Place]]:
    """The matrices of each, by module: they fill rows of one weight, whose name is the key."""
    found: dict[str, dict[str, Place]] = {}
    for module, place in places.items():
        found.setdefault(place.weight, {})[module] = place
    return found


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
    meant = {str(each): each for each in precisions(recipe)}
    chosen = sensitivity.assign(losses, sizes, round(recipe.budget * _num_weights(places)))
    return {module: meant.get(chosen[place.weight]) for module, place in places.items()}


def precisions(recipe: Recipe) -> list[Precision]:
    """What a matrix may get: the recipe's group, or half of it as often as it stays large enough.

    All columns that fill the recipe's groups fill smaller ones.
    """
    groups = [recipe.group_size]
    while groups[-1] >= 2 * SMALLEST_GROUP and groups[-1] % 16 == 0:
        groups.append(groups[-1] // 2)
    return [Precision(bits, group) for bits in BITS for group in groups]


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
    for precision in precisions(recipe):
        layout = declare(recipe, {module: precision}).quantization.layout_of(module)
        assert layout is not None
        parts = layout.parts(place.shape[0], place.shape[1])
        found[str(precision)] = 8 * sum(part.num_bytes for part in parts.values())
    return found


def measured(
    checkpoint: Checkpoint,
    recipe: Recipe,
    places: Mapping[str, Place],
    texts: Sequence[Text],
    device: torch.device,
    progress: Progress,
) -> Losses:
    """What each product loses in each precision, alone: nats per token."""
    sought = _Sought(recipe, frozenset(places))
    passage = Passage(checkpoint, _some(texts), device)
    found: Losses = {}
    for name, some in _runs(checkpoint.config.num_layers).items():
        losses = partial(_losses, checkpoint, sought, passage, some, progress.advance)
        found |= progress.remember(name, losses)
    return found


def _runs(num_layers: int) -> dict[str, range]:
    """Layers whose products are measured together, by the name of what is remembered of them."""
    firsts = range(0, num_layers, _TOGETHER)
    return {f"losses-{at}": range(at, min(at + _TOGETHER, num_layers)) for at in firsts}


@dataclass(frozen=True, slots=True)
class _Sought:
    """What is tried with the matrices of a layer."""

    recipe: Recipe
    free: frozenset[str]  # modules

    def products(self, layer: OneLayer) -> dict[str, list[Matrix]]:
        """By name, those of which some matrices are free: these."""
        stages = {stage[0].place.weight: stage for stage in layer.stages()}
        chosen = {
            name: [each for each in stage if each.module in self.free]
            for name, stage in stages.items()
        }
        return {name: matrices for name, matrices in chosen.items() if matrices}

    def rounded(self, matrix: Matrix, precision: Precision) -> torch.Tensor:
        """[N, K]."""
        grid = grid_of(self.recipe, precision)
        return rtn.quantize(matrix.values.contiguous(), grid, "mse").dense()

    def errors(self, matrices: Sequence[Matrix]) -> dict[Precision, float]:
        """Squared, of a product's weights in all."""
        return {
            each: sum(
                (self.rounded(matrix, each) - matrix.values).square().sum().item()
                for matrix in matrices
            )
            for each in precisions(self.recipe)
        }


def _losses(
    checkpoint: Checkpoint, sought: _Sought, passage: Passage, some: range, advance: Advance
) -> Losses:
    """Of the products of some layers: each goes on alone, beside the dense model, to its end."""
    dense = passage.embedded()
    tried = Precision(MEASURED_BITS, sought.recipe.group_size)
    errors: dict[str, dict[Precision, float]] = {}
    streams: dict[str, torch.Tensor] = {}  # by product
    for index in range(checkpoint.config.num_layers):
        layer = OneLayer(checkpoint, index, passage.device)
        for hidden in streams.values():
            passage.advance(layer, hidden)
            advance()
        for product, matrices in sought.products(layer).items() if index in some else ():
            errors[product] = sought.errors(matrices)
            streams[product] = dense.clone()
            with _replaced(matrices, [sought.rounded(each, tried) for each in matrices]):
                passage.advance(layer, streams[product])
            advance()
        passage.advance(layer, dense)
    units = {
        product: max(loss, 0.0) / max(errors[product][tried], 1e-30)
        for product, loss in _divergences(passage, dense, streams).items()
    }
    return {
        product: {DENSE: 0.0}
        | {str(each): unit * errors[product][each] for each in errors[product]}
        for product, unit in units.items()
    }


@contextmanager
def _replaced(matrices: Sequence[Matrix], values: Sequence[torch.Tensor]) -> Iterator[None]:
    """For a while a layer computes with other values."""
    before = [matrix.values.clone() for matrix in matrices]
    _put(matrices, values)
    yield
    _put(matrices, before)


def _put(matrices: Sequence[Matrix], values: Sequence[torch.Tensor]) -> None:
    for matrix, each in zip(matrices, values, strict=True):
        matrix.values.copy_(each)


def _divergences(
    passage: Passage, dense: torch.Tensor, streams: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """Nats per token behind the last layer, of each stream against the dense one."""
    sums = dict.fromkeys(streams, 0.0)
    all_logits = passage.logits(dense, *streams.values())
    for text, found in zip(passage.texts, all_logits, strict=True):
        expected = next(found)
        for product, logits in zip(streams, found, strict=True):
            sums[product] += document(text, expected, logits).kl
    predicted = sum(text.num_predicted for text in passage.texts)
    return {product: each / predicted for product, each in sums.items()}


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
    places = {
        checkpoint.own_name(place).removesuffix(".weight"): place
        for place in layer_matrices(checkpoint.config)
    }
    return {module: place for module, place in places.items() if module not in kept}


def _some(texts: Sequence[Text]) -> list[Text]:
    """Every so many of them: kinds of texts stand together."""
    mean = sum(len(text.tokens) for text in texts) / len(texts)
    step = max(1, int(len(texts) * mean / _MOST_TOKENS))
    return list(texts[::step])
