"""Mixed precision: how fine the integers of each matrix are, for an average size.

Bits and groups are chosen together: a finer group costs bits, too. Matrices that a model multiplies
with together (q, k and v; gate and up; all experts) get the same: servers fuse them. Each such
product alone is rounded to 4 bits in the dense model, and what that loses is measured: nats per
token over some texts. For other precisions the loss is taken to grow as the squared error of the
weights does. The losses of all products are taken to add up.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from aweigh_quantize.checkpoint import Checkpoint
from aweigh_quantize.declaration import declare
from aweigh_quantize.evaluation import document
from aweigh_quantize.methods import rtn, sensitivity
from aweigh_quantize.one_layer import layer_matrices
from aweigh_quantize.recipe import BITS, Precision, Recipe, RecipeError
from aweigh_quantize.schemes import grid_of
from aweigh_quantize.texts import Text
from aweigh_runtime.failures import ModelDoesNotFit
from aweigh_runtime.model.cache import CacheFormat, KVCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.load import Wish, load
from aweigh_runtime.model.mapped import rows_of
from aweigh_runtime.model.placement import Place

MEASURED_BITS = 4
SMALLEST_GROUP = 32
DENSE = "dense"
_MOST_TOKENS = 2048  # to measure with
_BLOCK_TOKENS = 16

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
        advance: called for each product.

    Raises:
        ModelDoesNotFit: the dense model exceeds the memory.
        RecipeError: not even the fewest bits fit the budget.
    """
    assert recipe.budget is not None
    free = _free(checkpoint, kept)
    losses = measured(checkpoint, recipe, free, texts, device, advance)
    return dict.fromkeys(kept) | assigned(checkpoint, recipe, free, losses)


def num_products(checkpoint: Checkpoint, kept: frozenset[str]) -> int:
    """How often `budgeted` advances."""
    return len(products(_free(checkpoint, kept)))


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
    """The precision of each module, such that all fit the budget.

    `losses`: by product and precision, as `measured` gives them.

    Raises:
        RecipeError: not even the fewest bits fit.
    """
    assert recipe.budget is not None
    sizes = product_sizes(checkpoint, recipe, places)
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
    advance: Advance,
) -> dict[str, dict[str, float]]:
    """What each product loses in each precision, alone: nats per token."""
    try:
        loaded = load(checkpoint.directory, Wish(dtype="fp32"), device, lambda done, total: None)
    except ModelDoesNotFit as failure:
        raise ModelDoesNotFit(f"{failure}; a --budget is divided with it in memory") from failure
    decoder, some = loaded.decoder, _some(texts)
    dense = [_logits(decoder, text) for text in some]
    tried = Precision(MEASURED_BITS, recipe.group_size)
    found = {}
    for product, matrices in products(places).items():
        parts = [rows_of(decoder.weights[product], place) for place in matrices.values()]
        before = [rows.clone() for rows in parts]
        errors = {}
        for precision in precisions(recipe):
            grid = grid_of(recipe, precision)
            rounded = [rtn.quantize(each.contiguous(), grid, "mse").dense() for each in before]
            errors[precision] = sum(
                (each - exact).square().sum().item()
                for each, exact in zip(rounded, before, strict=True)
            )
            if precision == tried:
                _put(parts, rounded)
        loss = _loss(decoder, some, dense)
        _put(parts, before)
        unit = max(loss, 0.0) / max(errors[tried], 1e-30)
        found[product] = {str(each): unit * error for each, error in errors.items()} | {DENSE: 0.0}
        advance()
    return found


def _free(checkpoint: Checkpoint, kept: frozenset[str]) -> dict[str, Place]:
    """The matrices of which not all is said yet, by module."""
    places = {
        checkpoint.own_name(place).removesuffix(".weight"): place
        for place in layer_matrices(checkpoint.config)
    }
    return {module: place for module, place in places.items() if module not in kept}


def _put(parts: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    for rows, each in zip(parts, values, strict=True):
        rows.copy_(each)


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
