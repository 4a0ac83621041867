"""Mixed precision: how fine the integers of each matrix are, for an average size.

Bits and groups are chosen together: a finer group costs bits, too. Each matrix alone is quantized
to 3 bits in the dense model, and what that loses is measured: nats per token over some texts. It is
quantized by the method that will be used: GPTQ saves some kinds of matrices twice as much as
others. For other precisions the loss is taken to grow as the squared error of weights that are
rounded to the nearest. The losses of all matrices are taken to add up.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from aweigh_quantize.checkpoint import Checkpoint
from aweigh_quantize.declaration import declare
from aweigh_quantize.evaluation import document
from aweigh_quantize.methods import rtn, sensitivity
from aweigh_quantize.methods.inputs import Inputs
from aweigh_quantize.one_layer import OneLayer, layer_matrices
from aweigh_quantize.passage import Passage
from aweigh_quantize.recipe import BITS, Precision, Recipe, RecipeError
from aweigh_quantize.schemes import grid_of, quantized
from aweigh_quantize.texts import Text
from aweigh_runtime.failures import ModelDoesNotFit
from aweigh_runtime.model.cache import CacheFormat, KVCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.load import Wish, load
from aweigh_runtime.model.mapped import rows_of
from aweigh_runtime.model.placement import Place

MEASURED_BITS = 3
SMALLEST_GROUP = 32
DENSE = "dense"
_MOST_TOKENS = 4096  # to measure with
_BLOCK_TOKENS = 16
_SMALLEST_ERROR = 1e-30

Advance = Callable[[], None]


def budgeted(
    checkpoint: Checkpoint,
    recipe: Recipe,
    kept: frozenset[str],
    texts: Sequence[Text],
    device: torch.device,
    advance: Advance,
) -> dict[str, Precision | None]:
    """The precision of each matrix: all fit the recipe's budget and lose least; None: dense.

    Args:
        checkpoint: the dense model, which must fit into memory.
        recipe: with a budget.
        kept: modules that stay dense whatever it costs, and do not count.
        texts: to measure with.
        device: where.
        advance: called for each matrix.

    Raises:
        ModelDoesNotFit: the dense model exceeds the memory.
        RecipeError: not even the fewest bits fit the budget.
    """
    assert recipe.budget is not None
    places = {
        checkpoint.own_name(place).removesuffix(".weight"): place
        for place in layer_matrices(checkpoint.config)
    }
    free = {module: place for module, place in places.items() if module not in kept}
    losses = measured(checkpoint, recipe, free, texts, device, advance)
    chosen = assigned(checkpoint, recipe, free, losses)
    return {module: chosen.get(module) for module in places}


def assigned(
    checkpoint: Checkpoint,
    recipe: Recipe,
    places: Mapping[str, Place],
    losses: Mapping[str, Mapping[str, float]],
) -> dict[str, Precision | None]:
    """The precisions that fit the budget, for given losses by module and precision.

    Raises:
        RecipeError: not even the fewest bits fit.
    """
    assert recipe.budget is not None
    sizes = {module: option_sizes(checkpoint, recipe, place) for module, place in places.items()}
    meant = {str(each): each for each in precisions(recipe)}
    weights = sum(math.prod(place.shape) for place in places.values())
    try:
        chosen = sensitivity.assign(losses, sizes, round(recipe.budget * weights))
    except ValueError as error:
        least = sum(min(options.values()) for options in sizes.values()) / weights
        raise RecipeError(
            f"--budget is {recipe.budget:g} bits; expected at least {least:.2f}, which 2 bits and "
            f"their scales take in groups of {recipe.group_size}"
        ) from error
    return {module: meant.get(each) for module, each in chosen.items()}


def precisions(recipe: Recipe) -> list[Precision]:
    """What a matrix may get: the recipe's group, or half of it as often as it stays large enough.

    All columns that fill the recipe's groups fill smaller ones.
    """
    groups = [recipe.group_size]
    while groups[-1] >= 2 * SMALLEST_GROUP and groups[-1] % 16 == 0:
        groups.append(groups[-1] // 2)
    return [Precision(bits, group) for bits in BITS for group in groups]


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
    advance: Advance,
) -> dict[str, dict[str, float]]:
    """What each matrix loses in each precision, alone: nats per token."""
    try:
        loaded = load(checkpoint.directory, Wish(dtype="fp32"), device, lambda done, total: None)
    except ModelDoesNotFit as failure:
        raise ModelDoesNotFit(f"{failure}; a --budget is divided with it in memory") from failure
    decoder, some = loaded.decoder, _some(texts)
    dense = [_logits(decoder, text) for text in some]
    found = {}
    for module, tried in _tried(checkpoint, recipe, places, texts, device):
        rows = rows_of(decoder.weights[places[module].weight], places[module])
        before = rows.clone()
        rows.copy_(tried)
        loss = max(_loss(decoder, some, dense), 0.0)
        rows.copy_(before)
        errors = _errors(recipe, before)
        unit = loss / max(errors[_measured_precision(recipe)], _SMALLEST_ERROR)
        found[module] = {str(each): unit * error for each, error in errors.items()} | {DENSE: 0.0}
        advance()
    return found


def _tried(
    checkpoint: Checkpoint,
    recipe: Recipe,
    places: Mapping[str, Place],
    texts: Sequence[Text],
    device: torch.device,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Each matrix rounded by the recipe's own method, from the inputs that the dense model has.

    AWQ moves scales into other matrices: what is rounded to the nearest stands for it.
    """
    precision, sees_inputs = _measured_precision(recipe), recipe.scheme == "gptq"
    own = recipe if sees_inputs else replace(recipe, scheme="rtn", symmetric=recipe.is_symmetric)
    passage = Passage(checkpoint, texts, device)
    hidden = passage.embedded()
    for index in range(checkpoint.config.num_layers):
        layer = OneLayer(checkpoint, index, device)
        inputs = {each.product: Inputs(each.shape[1], device) for each in layer.matrices}
        if sees_inputs:
            with layer.observed({product: each.add for product, each in inputs.items()}):
                passage.show(layer, hidden)
            passage.advance(layer, hidden)
        for matrix in layer.matrices:
            if matrix.module in places:
                weight = quantized(own, precision, matrix.values, inputs[matrix.product])
                yield matrix.module, weight.dense()


def _errors(recipe: Recipe, weight: torch.Tensor) -> dict[Precision, float]:
    """Squared errors of a matrix [N, K] that is rounded to the nearest."""
    wide = weight.contiguous()
    found = {}
    for precision in precisions(recipe):
        rounded = rtn.quantize(wide, grid_of(recipe, precision), "mse").dense()
        found[precision] = rounded.sub_(wide).square_().sum().item()
    return found


def _measured_precision(recipe: Recipe) -> Precision:
    return Precision(MEASURED_BITS, recipe.group_size)


def _loss(decoder: Decoder, texts: Sequence[Text], dense: Sequence[torch.Tensor]) -> float:
    documents = [
        document(text, expected, _logits(decoder, text))
        for text, expected in zip(texts, dense, strict=True)
    ]
    return sum(each.kl for each in documents) / sum(each.num_tokens for each in documents)


def _logits(decoder: Decoder, text: Text) -> torch.Tensor:
    """Behind each token, [T, V]."""
    count = -(-len(text.tokens) // _BLOCK_TOKENS)
    kept = CacheFormat(decoder.dtype, decoder.dtype)
    cache = KVCache(decoder.config, count, _BLOCK_TOKENS, kept, decoder.device)
    chunk = Chunk(0, len(text.tokens), range(count), len(text.tokens))
    return decoder.forward(torch.tensor(text.tokens, device=decoder.device), [chunk], cache)


def _some(texts: Sequence[Text]) -> list[Text]:
    """Every so many of them: kinds of texts stand together."""
    mean = sum(len(text.tokens) for text in texts) / len(texts)
    step = max(1, int(len(texts) * mean / _MOST_TOKENS))
    return list(texts[::step])
