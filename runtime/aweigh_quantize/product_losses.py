"""What each product of a model loses if it alone is rounded: nats per token over some texts.

It is rounded to 4 bits, and for other precisions the loss is taken to grow as the squared error of
the weights does. One layer is in memory at a time: beside the dense model's hidden states those of
a product go on alone from its layer to the end, the products of some layers at the same time.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from aweigh_quantize.checkpoint import Checkpoint
from aweigh_quantize.evaluation import document
from aweigh_quantize.methods import rtn
from aweigh_quantize.one_layer import Matrix, OneLayer
from aweigh_quantize.passage import Passage
from aweigh_quantize.recipe import Precision, Recipe
from aweigh_quantize.schemes import grid_of
from aweigh_quantize.texts import Text
from aweigh_runtime.model.placement import Place, layer_places

DENSE = "dense"
_MEASURED_BITS = 4
_MOST_TOKENS = 2048  # to measure with
# Layers whose products go through the model at the same time. Each product holds its texts' hidden
# states: 64 MiB at a width of 8,192. Each time the layers behind them are read once more.
_TOGETHER = 8

Losses = dict[str, dict[str, float]]
"""By product and precision, nats per token."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Of measuring, which may take hours."""

    advance: Callable[[], None]  # some hidden states have gone through one layer
    remember: Callable[[str, Callable[[], Losses]], Losses]
    """Find something out, by name, unless an earlier run has."""


def measured(
    checkpoint: Checkpoint,
    recipe: Recipe,
    places: Mapping[str, Place],
    passage: Passage,
    progress: Progress,
) -> Losses:
    """Of all products that these matrices are part of; `places` are named by module."""
    rounding = _Rounding(checkpoint, recipe, frozenset(places), passage, progress.advance)
    found: Losses = {}
    for run in _runs(checkpoint, places):
        found |= progress.remember(run.name, partial(rounding.losses, run.layers))
    return found


def num_advances(checkpoint: Checkpoint, places: Mapping[str, Place]) -> dict[str, int]:
    """How often `measured` advances, by the names of what it remembers."""
    return {run.name: run.num_advances for run in _runs(checkpoint, places)}


def some(texts: Sequence[Text]) -> list[Text]:
    """Every so many of them: kinds of texts stand together."""
    total = sum(len(text.tokens) for text in texts)
    return list(texts[:: max(1, math.ceil(total / _MOST_TOKENS))])


@dataclass(frozen=True, slots=True)
class _Run:
    """Layers whose products are measured together."""

    layers: range
    num_advances: int

    @property
    def name(self) -> str:
        """Of what is remembered of them."""
        return f"losses-{self.layers.start}"


def _runs(checkpoint: Checkpoint, places: Mapping[str, Place]) -> list[_Run]:
    """Those with any products."""
    config, count = checkpoint.config, checkpoint.config.num_layers
    free = {place.weight for place in places.values()}
    products = [
        len(free & {place.weight for place in layer_places(config, layer, index)})
        for index, layer in enumerate(config.layers)
    ]
    found = []
    for first in range(0, count, _TOGETHER):
        layers = range(first, min(first + _TOGETHER, count))
        steps = sum(products[index] * (count - index) for index in layers)
        if steps:
            found.append(_Run(layers, steps + count - first))  # the dense model's beside them
    return found


class _Rounding:
    """Rounds one product after the other, while texts are on their way through the dense model."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        recipe: Recipe,
        free: frozenset[str],
        passage: Passage,
        advance: Callable[[], None],
    ) -> None:
        """`free`: modules whose precision is not decided yet."""
        self._checkpoint = checkpoint
        self._recipe = recipe
        self._free = free
        self._passage = passage
        self._advance = advance
        self._next = 0  # layer that the dense model's hidden states stand before
        self._dense: torch.Tensor | None = None

    def losses(self, layers: range) -> Losses:
        """Of these layers' products; later layers come later."""
        dense = self._before(layers.start)
        errors: dict[str, dict[Precision, float]] = {}
        streams: dict[str, torch.Tensor] = {}  # by product
        for index in range(layers.start, self._checkpoint.config.num_layers):
            layer = self._layer(index)
            for hidden in streams.values():
                self._through(layer, hidden)
            for product, matrices in self._products(layer).items() if index in layers else ():
                errors[product] = self._errors(matrices)
                streams[product] = dense.clone()
                with _replaced(matrices, [self._rounded(each, self._tried) for each in matrices]):
                    self._through(layer, streams[product])
            self._through(layer, dense)
        return {
            product: self._by_precision(loss, errors[product])
            for product, loss in _divergences(self._passage, dense, streams).items()
        }

    @property
    def _tried(self) -> Precision:
        return Precision(_MEASURED_BITS, self._recipe.group_size)

    def _before(self, index: int) -> torch.Tensor:
        """What the dense model's layer gets."""
        if self._dense is None:
            self._dense = self._passage.embedded()
        for passed in range(self._next, index):
            self._passage.advance(self._layer(passed), self._dense)
        self._next = index
        return self._dense.clone()

    def _layer(self, index: int) -> OneLayer:
        return OneLayer(self._checkpoint, index, self._passage.device)

    def _through(self, layer: OneLayer, hidden: torch.Tensor) -> None:
        self._passage.advance(layer, hidden)
        self._advance()

    def _products(self, layer: OneLayer) -> dict[str, list[Matrix]]:
        """By name, those of which some matrices are free: these."""
        stages = {stage[0].place.weight: stage for stage in layer.stages()}
        chosen = {
            name: [each for each in stage if each.module in self._free]
            for name, stage in stages.items()
        }
        return {name: matrices for name, matrices in chosen.items() if matrices}

    def _rounded(self, matrix: Matrix, precision: Precision) -> torch.Tensor:
        """[N, K]."""
        grid = grid_of(self._recipe, precision)
        return rtn.quantize(matrix.values.contiguous(), grid, "mse").dense()

    def _errors(self, matrices: Sequence[Matrix]) -> dict[Precision, float]:
        """Squared, of a product's weights in all."""
        return {
            each: sum(
                (self._rounded(matrix, each) - matrix.values).square().sum().item()
                for matrix in matrices
            )
            for each in self._recipe.choices
        }

    def _by_precision(self, loss: float, errors: Mapping[Precision, float]) -> dict[str, float]:
        unit = max(loss, 0.0) / max(errors[self._tried], 1e-30)
        return {DENSE: 0.0} | {str(each): unit * error for each, error in errors.items()}


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
