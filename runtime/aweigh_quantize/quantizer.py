"""Quantizes a model layer by layer: each is calibrated behind the quantized ones before it.

So is each matrix within a layer. Texts that were held out go through the dense and the quantized
layers side by side, to measure what is lost.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.sparse_int_weight import SparseIntWeight
from aweigh_quantize.cache_scales import CacheScales
from aweigh_quantize.checkpoint import Checkpoint
from aweigh_quantize.declaration import Declared
from aweigh_quantize.evaluation import Evaluation, evaluate
from aweigh_quantize.folding import fold, junctions
from aweigh_quantize.latent import Latent
from aweigh_quantize.methods.inputs import FEWEST_TOKENS, Inputs
from aweigh_quantize.one_layer import Matrix, OneLayer
from aweigh_quantize.passage import Passage
from aweigh_quantize.recipe import Precision, Recipe
from aweigh_quantize.recovery import Training, recover
from aweigh_quantize.schemes import needs_inputs, quantized, scales, searches
from aweigh_quantize.state import Resumption, State
from aweigh_quantize.texts import Text

Advance = Callable[[], None]
"""Called as each layer is finished."""

CALIBRATION = "calibration"  # names of streams
TARGET = "target"  # the same texts through the dense layers
DENSE, QUANTIZED = "dense", "quantized"  # before the name of texts that were held out


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is done to which model."""

    checkpoint: Checkpoint
    recipe: Recipe
    precisions: Mapping[str, Precision | None]  # by module; None: it stays dense
    declared: Declared
    device: torch.device
    calibration: Sequence[Text]
    held_out: Mapping[str, Sequence[Text]]  # by name


class Quantizer:
    """One run, which may go on where another was killed."""

    def __init__(self, work: Work, state: State, advance: Advance) -> None:
        self._work = work
        self._state = state
        self._advance = advance
        self._passage = Passage(work.checkpoint, work.calibration, work.device)
        self._held_out = {
            name: Passage(work.checkpoint, texts, work.device)
            for name, texts in work.held_out.items()
        }

    def run(self, resumption: Resumption) -> dict[str, Evaluation]:
        """Quantize all layers; what was lost, by the name of the texts it was measured on.

        Raises:
            CannotWrite: the disk is full.
        """
        streams = self._resumed(resumption)
        for index in range(resumption.finished, self._work.checkpoint.config.num_layers):
            layer = self._layer(index, streams)
            tensors = layer.tensors(self._work.declared.quantization)
            self._state.finish(index, tensors, streams)
            self._advance()
        return {
            name: evaluate(
                passage.texts,
                (
                    (pair[0], pair[1])
                    for pair in passage.logits(
                        streams[f"{DENSE} {name}"], streams[f"{QUANTIZED} {name}"]
                    )
                ),
            )
            for name, passage in self._held_out.items()
        }

    def _resumed(self, resumption: Resumption) -> dict[str, torch.Tensor]:
        """The hidden states behind the finished layers, of which damaged ones are made again."""
        streams: dict[str, torch.Tensor] = {}
        if resumption.recomputed or not resumption.finished:
            streams = self._embedded()
            for index in range(resumption.recomputed):
                layer = self._layer(index, streams)
                if index in resumption.damaged:
                    self._state.replace(index, layer.tensors(self._work.declared.quantization))
                self._advance()
        if resumption.recomputed < resumption.finished:
            streams = self._state.streams(resumption.finished - 1)
        return {name: found.to(self._work.device) for name, found in streams.items()}

    def _embedded(self) -> dict[str, torch.Tensor]:
        streams = {CALIBRATION: self._passage.embedded()}
        if self._work.recipe.recover:
            streams[TARGET] = streams[CALIBRATION].clone()
        for name, passage in self._held_out.items():
            streams[f"{DENSE} {name}"] = passage.embedded()
            streams[f"{QUANTIZED} {name}"] = streams[f"{DENSE} {name}"].clone()
        return streams

    def _layer(self, index: int, streams: dict[str, torch.Tensor]) -> OneLayer:
        """Quantize one layer, and put all texts through it."""
        layer = OneLayer(self._work.checkpoint, index, self._work.device)
        for name, passage in self._held_out.items():
            passage.advance(layer, streams[f"{DENSE} {name}"])
        recovers = self._work.recipe.recover
        if recovers:
            self._passage.advance(layer, streams[TARGET])
        if searches(self._work.recipe):
            self._fold(layer, streams[CALIBRATION])
        dense = layer.values() if recovers else {}
        for stage in layer.stages():
            chosen = [each for each in stage if self._work.precisions[each.module] is not None]
            if chosen:
                self._stage(layer, chosen, streams[CALIBRATION])
        if recovers:
            self._recover(layer, dense, streams)
        self._scale_cache(layer, streams[CALIBRATION])
        self._passage.advance(layer, streams[CALIBRATION])
        for name, passage in self._held_out.items():
            passage.advance(layer, streams[f"{QUANTIZED} {name}"])
        return layer

    def _scale_cache(self, layer: OneLayer, hidden: torch.Tensor) -> None:
        """From now on keep a layer's keys and values as a server will."""
        if self._work.recipe.kv_cache is not None:
            found = CacheScales(self._work.device)
            self._passage.show_cached(layer, hidden, found.add)
            layer.cache_scales = found.scales()

    def _fold(self, layer: OneLayer, hidden: torch.Tensor) -> None:
        """Move what is hard to round to where it is easier, between matrices that are quantized."""
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

    def _recover(
        self,
        layer: OneLayer,
        dense: Mapping[str, torch.Tensor],
        streams: Mapping[str, torch.Tensor],
    ) -> None:
        latents = {
            module: Latent(weight, dense[module])
            for module, weight in layer.quantized.items()
            if isinstance(weight, IntWeight | SparseIntWeight)
        }
        training = Training(seed=self._work.recipe.seed)
        recover(layer, latents, self._passage, (streams[CALIBRATION], streams[TARGET]), training)

    def _stage(self, layer: OneLayer, matrices: Sequence[Matrix], hidden: torch.Tensor) -> None:
        inputs = self._observed(
            layer, matrices, hidden if needs_inputs(self._work.recipe) else None
        )
        for matrix in matrices:
            precision = self._work.precisions[matrix.module]
            assert precision is not None
            found = quantized(self._work.recipe, precision, matrix.values, inputs[matrix.product])
            layer.put(matrix, found)

    def _observed(
        self, layer: OneLayer, matrices: Sequence[Matrix], hidden: torch.Tensor | None
    ) -> dict[int, Inputs]:
        """By product: matrices that are multiplied together see the same inputs."""
        inputs = {each.product: Inputs(each.shape[1], self._work.device) for each in matrices}
        if hidden is not None:
            with layer.observed({product: each.add for product, each in inputs.items()}):
                self._passage.show(layer, hidden)
        return inputs
