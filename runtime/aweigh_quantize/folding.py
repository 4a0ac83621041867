"""Scales that move from one operation into the next, so that what lies between is easier to round.

    norm → queries, keys, values      norm → gate, up      up → down      values → output

What the first puts out is divided by them, the columns of the second are multiplied: the layer
computes what it did (AWQ, Lin et al. 2023; SmoothQuant, Xiao et al. 2022). A norm in front of
experts stays, as their router sees it, too; each expert's up and down are a pair like any other.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from aweigh_quantize.methods.inputs import Inputs
from aweigh_quantize.one_layer import Matrix, OneLayer
from aweigh_runtime.model.config import ModelConfig

Search = Callable[[Sequence[torch.Tensor], Inputs], torch.Tensor]
"""From matrices [N, K] and the inputs that all of them see to scales [K]."""


@dataclass(frozen=True, slots=True)
class Junction:
    """Numbers that pass from one operation to matrices, and nowhere else."""

    matrices: Sequence[Matrix]  # that they are multiplied with
    norm: str | None = None  # the weight of the norm that they come from
    source: Matrix | None = None  # else the matrix, of whose rows
    first_row: int = 0  # of them

    @property
    def touched(self) -> list[Matrix]:
        """Matrices whose values change."""
        return [*self.matrices, *([] if self.source is None else [self.source])]

    @property
    def product(self) -> int:
        """What sees the numbers."""
        return self.matrices[0].product


def junctions(config: ModelConfig, layer: OneLayer) -> Iterator[Junction]:
    """All of a layer, in the order of the numbers' way."""
    stages = {_part(stage[0]): stage for stage in layer.stages()}
    attention = stages["qkv"][0].place.weight.removesuffix("qkv.weight")
    yield Junction(stages["qkv"], norm=f"{attention}norm.weight")
    if config.num_heads == config.num_kv_heads:  # else several heads share a value
        yield _behind(stages["qkv"], stages["out"])
    if not layer.has_experts:
        mlp = stages["gate_up"][0].place.weight.removesuffix("gate_up.weight")
        yield Junction(stages["gate_up"], norm=f"{mlp}norm.weight")
    for down in stages["down"]:
        expert = down.place.expert
        yield _behind([each for each in stages["gate_up"] if each.place.expert == expert], [down])


def fold(layer: OneLayer, junction: Junction, scales: torch.Tensor) -> None:
    """Move scales [K] across a junction."""
    if junction.source is not None:
        rows = slice(junction.first_row, junction.first_row + len(scales))
        junction.source.values[rows] /= scales[:, None]
        layer.divide_bias(junction.source, rows, scales)
    elif junction.norm is not None:
        scales = layer.divide_norm(junction.norm, scales)
    for matrix in junction.matrices:
        matrix.values.mul_(scales)


def _behind(sources: Sequence[Matrix], matrices: Sequence[Matrix]) -> Junction:
    """The last rows of the last source are what the matrices see."""
    source, width = sources[-1], matrices[0].shape[1]
    return Junction(matrices, source=source, first_row=source.shape[0] - width)


def _part(matrix: Matrix) -> str:
    """`qkv`, `out`, `gate_up` or `down`."""
    return matrix.place.weight.removesuffix(".weight").rpartition(".")[2]
