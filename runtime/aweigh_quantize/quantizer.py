"""Quantizes a model layer by layer: each is calibrated behind the quantized ones before it.

So is each matrix within a layer. Then all layers may be trained together. Texts that were held out
go through the dense and the finished layers side by side, to measure what is lost.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.sparse_int_weight import SparseIntWeight
from aweigh_quantize.cache_scales import CacheScales
from aweigh_quantize.checkpoint import Checkpoint
from aweigh_quantize.declaration import Declared
from aweigh_quantize.display import Display
from aweigh_quantize.evaluation import Evaluation, evaluate
from aweigh_quantize.failures import named
from aweigh_quantize.folding import fold, junctions
from aweigh_quantize.latent import Latent, Trainable, start
from aweigh_quantize.methods.inputs import FEWEST_TOKENS, Inputs
from aweigh_quantize.one_layer import Matrix, OneLayer, layer_matrices
from aweigh_quantize.passage import Passage
from aweigh_quantize.recipe import Precision, Recipe
from aweigh_quantize.recovery import Recovery, Training
from aweigh_quantize.schemes import needs_inputs, quantized, scales, searches
from aweigh_quantize.state import Layers, Steps
from aweigh_quantize.texts import Text
from aweigh_quantize.trained_layer import BYTES_PER_WEIGHT, Rates, TrainedLayer
from aweigh_runtime.model.memory import available_bytes

Streams = dict[str, torch.Tensor]
"""Hidden states of texts, by name."""
Tensors = dict[str, torch.Tensor]
"""Of a layer, by their names in files."""
Do = Callable[[int, Streams], Tensors]
"""With a layer, by number: it moves the streams behind it, and gives what is kept."""

CALIBRATION = "calibration"  # names of streams
DENSE, QUANTIZED = "dense", "quantized"  # before the name of texts that were held out
_NUMBERS = "numbers"  # of a matrix that will be trained, beside its parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is done to which model."""

    checkpoint: Checkpoint
    recipe: Recipe
    precisions: Mapping[str, Precision | None]  # by module; None: it stays dense
    declared: Declared
    device: torch.device
    calibration: Sequence[Text]
    to_train_on: Sequence[Text] = ()  # where the recipe recovers
    training: Training = field(default_factory=Training)
    held_out: Mapping[str, Sequence[Text]]  # by name


class Quantizer:
    """One run, which may go on where another was killed."""

    def __init__(self, work: Work, folder: Path, display: Display) -> None:
        """`folder`: where finished work is kept."""
        self._work = work
        self._display = display
        self._finished = Layers(folder, "layer")
        self._rounded = Layers(folder, "rounded")  # to be trained
        self._steps = Steps(folder, work.checkpoint.config.num_layers)
        self._passage = Passage(work.checkpoint, work.calibration, work.device)
        self._held_out = {
            name: Passage(work.checkpoint, texts, work.device)
            for name, texts in work.held_out.items()
        }

    def run(self) -> dict[str, Evaluation]:
        """Quantize all layers; what was lost, by the name of the texts it was measured on.

        Raises:
            CannotWrite: the disk is full.
        """
        if self._work.recipe.recover:
            self._all("layers", self._rounded, self._calibrated, self._rounded_layer)
            recovery = self._recovery()
            self._train(recovery)
            finish = partial(self._recovered_layer, recovery)
            streams = self._all("trained layers", self._finished, self._embedded, finish)
        else:
            streams = self._all("layers", self._finished, self._embedded, self._layer)
        return {
            name: evaluate(
                passage.texts,
                (
                    (next(pair), next(pair))
                    for pair in passage.logits(
                        streams[f"{DENSE} {name}"], streams[f"{QUANTIZED} {name}"]
                    )
                ),
            )
            for name, passage in self._held_out.items()
        }

    def files(self) -> list[Path]:
        """Of the finished layers."""
        return self._finished.paths(self._work.checkpoint.config.num_layers)

    def _all(self, what: str, kept: Layers, begin: Callable[[], Streams], do: Do) -> Streams:
        """Do something with each layer that is not finished, or damaged; the streams behind all."""
        resumption, count = kept.resumption(), self._work.checkpoint.config.num_layers
        self._display.begin(what, count, resumption.num_valid)
        streams: Streams = {}
        if resumption.recomputed or not resumption.finished:
            streams = begin()
            for index in range(resumption.recomputed):
                tensors = do(index, streams)
                if index in resumption.damaged:
                    kept.replace(index, tensors)
                self._display.advance()
        if resumption.recomputed < resumption.finished:
            found = kept.streams(resumption.finished - 1)
            streams = {name: values.to(self._work.device) for name, values in found.items()}
        for index in range(resumption.finished, count):
            kept.finish(index, do(index, streams), streams)
            self._display.advance()
        return streams

    def _embedded(self) -> Streams:
        return self._calibrated() | self._measured()

    def _calibrated(self) -> Streams:
        return {CALIBRATION: self._passage.embedded()}

    def _measured(self) -> Streams:
        streams = {}
        for name, passage in self._held_out.items():
            streams[f"{DENSE} {name}"] = passage.embedded()
            streams[f"{QUANTIZED} {name}"] = streams[f"{DENSE} {name}"].clone()
        return streams

    def _layer(self, index: int, streams: Streams) -> Tensors:
        """Quantize one layer, and put all texts through it."""
        layer = OneLayer(self._work.checkpoint, index, self._work.device)
        self._measure(layer, DENSE, streams)
        self._fold(layer, streams[CALIBRATION])
        self._quantize(layer, streams[CALIBRATION])
        return self._finish(layer, streams)

    def _rounded_layer(self, index: int, streams: Streams) -> Tensors:
        """Quantize one layer that will be trained."""
        layer = OneLayer(self._work.checkpoint, index, self._work.device)
        self._fold(layer, streams[CALIBRATION])
        dense = layer.values()
        self._quantize(layer, streams[CALIBRATION])
        self._advance(layer, streams[CALIBRATION])
        found = layer.tensors(self._work.declared.quantization)
        for module, values in dense.items():
            if (weight := self._read(module, values, found)) is not None:
                found[f"{module}.{_NUMBERS}"] = start(weight, values)
        return found

    def _recovered_layer(self, recovery: Recovery, index: int, streams: Streams) -> Tensors:
        """Put texts through a layer whose training is over."""
        trained = recovery.layer(index)
        self._measure(trained.dense, DENSE, streams)
        return self._finish(trained.finish(), streams)

    def _finish(self, layer: OneLayer, streams: Streams) -> Tensors:
        """Put texts through a layer whose weights are final."""
        self._advance(layer, streams[CALIBRATION])
        self._measure(layer, QUANTIZED, streams)
        return layer.tensors(self._work.declared.quantization)

    def _recovery(self) -> Recovery:
        work = self._work
        num_weights = sum(math.prod(p.shape) for p in layer_matrices(work.checkpoint.config))
        needed = num_weights * BYTES_PER_WEIGHT
        return Recovery(
            Passage(work.checkpoint, work.to_train_on, work.device),
            self._to_train,
            work.checkpoint.config.num_layers,
            self._steps,
            fits=needed <= available_bytes(work.device) // 2,
        )

    def _train(self, recovery: Recovery) -> None:
        done, training = self._steps.num_finished(), self._work.training
        self._display.begin("steps of training", training.num_steps, done)
        recovery.run(training, self._display.advance)

    def _to_train(self, index: int) -> TrainedLayer:
        """A layer as `_rounded_layer` has left it."""
        dense, layer = (OneLayer(self._work.checkpoint, index, self._work.device) for _ in "ab")
        kept = self._rounded.tensors(index)
        tensors = {name: values.to(self._work.device) for name, values in kept.items()}
        layer.change(tensors)
        latents = {}
        for matrix in layer.matrices:
            weight = self._read(matrix.module, matrix.values, tensors)
            if weight is not None:
                layer.put(matrix, weight)
                numbers = tensors[f"{matrix.module}.{_NUMBERS}"].clone()
                latents[matrix.module] = Latent(weight, numbers)
        return TrainedLayer(dense, layer, latents, Rates())

    def _read(self, module: str, dense: torch.Tensor, tensors: Tensors) -> Trainable | None:
        """A matrix that is written in `tensors`; None: it stays dense."""
        layout = self._work.declared.quantization.layout_of(module)
        if layout is None:
            return None
        rows, columns = dense.shape
        names = [name for name in layout.parts(rows, columns) if f"{module}.{name}" in tensors]
        parts = {name: tensors[f"{module}.{name}"] for name in names}
        weight = layout.read(parts, rows, columns)
        assert isinstance(weight, IntWeight | SparseIntWeight), f"{module} is no integers"
        return weight

    def _measure(self, layer: OneLayer, kind: str, streams: Streams) -> None:
        for name, passage in self._held_out.items():
            passage.advance(layer, streams[f"{kind} {name}"])

    def _quantize(self, layer: OneLayer, hidden: torch.Tensor) -> None:
        """Quantize each matrix of a layer behind those that it uses before."""
        for stage in layer.stages():
            chosen = [each for each in stage if self._work.precisions[each.module] is not None]
            if chosen:
                self._stage(layer, chosen, hidden)

    def _advance(self, layer: OneLayer, hidden: torch.Tensor) -> None:
        """Put the calibration's texts through a layer, its keys and values kept as by a server."""
        if self._work.recipe.kv_cache is not None:
            found = CacheScales(self._work.device)
            self._passage.show_cached(layer, hidden, found.add)
            layer.cache_scales = found.scales()
        self._passage.advance(layer, hidden)

    def _fold(self, layer: OneLayer, hidden: torch.Tensor) -> None:
        """Move what is hard to round to where it is easier, between matrices that are quantized."""
        if not searches(self._work.recipe):
            return
        dense = {module for module, found in self._work.precisions.items() if found is None}
        found = [
            each
            for each in junctions(self._work.checkpoint.config, layer)
            if dense.isdisjoint(matrix.module for matrix in each.touched)
        ]
        if not found:
            return
        inputs = self._observed(layer, [each.matrices[0] for each in found], hidden)
        for junction in found:
            seen = inputs[junction.product]
            if seen.num_tokens >= FEWEST_TOKENS:
                weights = [matrix.values for matrix in junction.matrices]
                fold(layer, junction, scales(self._work.recipe, weights, seen))

    def _stage(self, layer: OneLayer, matrices: Sequence[Matrix], hidden: torch.Tensor) -> None:
        inputs = self._observed(
            layer, matrices, hidden if needs_inputs(self._work.recipe) else None
        )
        for matrix in matrices:
            precision = self._work.precisions[matrix.module]
            assert precision is not None
            with named(matrix.module):
                seen = inputs[matrix.product]
                found = quantized(self._work.recipe, precision, matrix.values, seen)
            layer.put(matrix, found)

    def _observed(
        self, layer: OneLayer, matrices: Sequence[Matrix], hidden: torch.Tensor | None
    ) -> dict[int, Inputs]:
        """By product: matrices that are multiplied together see the same inputs."""
        inputs = {each.product: Inputs(each.shape[1], self._work.device) for each in matrices}
        if hidden is not None:
            with layer.observed(
                {each.product: named(each.module)(inputs[each.product].add) for each in matrices}
            ):
                self._passage.show(layer, hidden)
        return inputs
