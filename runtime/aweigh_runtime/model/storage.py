"""Where weights live, what they are called, and how products with them are computed."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace

import torch

from aweigh_runtime.model.arithmetic import Arithmetic
from aweigh_runtime.model.matrix import Dense, Filled, Matrix, Quantized


@dataclass(frozen=True, slots=True)
class Storage:
    """A number format on a device, and a place in the tree of weights."""

    dtype: torch.dtype
    device: torch.device
    arithmetic: Arithmetic
    name: str = ""  # of the part of the decoder that is being built
    weights: dict[str, torch.Tensor] = field(default_factory=dict)  # of the whole decoder
    dense: list[torch.Tensor] = field(default_factory=list)  # those that are multiplied with
    quantized: Container[str] = ()  # names of matrices that are not dense
    matrices: dict[str, Sequence[Filled]] = field(default_factory=dict)  # those, by name

    def within(self, name: str) -> "Storage":
        """For a part of this part."""
        return replace(self, name=f"{self.name}{name}.")

    @property
    def wide(self) -> "Storage":
        """The same in fp32."""
        return replace(self, dtype=torch.float32)

    def weight(self, name: str, *shape: int) -> torch.Tensor:
        """Memory for a weight, left as it was: loading fills it."""
        weight = torch.empty(shape, dtype=self.dtype, device=self.device)
        self.weights[f"{self.name}{name}"] = weight
        return weight

    def columns(self, name: str, *shape: int) -> torch.Tensor:
        """The same for [out, in], or several of them stacked, that is multiplied with."""
        matrix = self.weight(name, *shape)
        self.dense.append(matrix)
        return matrix

    def is_dense(self, name: str) -> bool:
        """Whether a matrix is no quantized one."""
        return f"{self.name}{name}" not in self.quantized

    def matrix(self, name: str, out_size: int, in_size: int) -> Matrix:
        """A matrix that is multiplied with, quantized if the checkpoint has it so."""
        if not self.is_dense(name):
            return self._quantized(name, 1)[0]
        return Dense(self.columns(name, out_size, in_size), self.arithmetic.project)

    def stacked(self, name: str, count: int, out_size: int, in_size: int) -> Sequence[Matrix]:
        """Several of them."""
        if not self.is_dense(name):
            return self._quantized(name, count)
        weight = self.columns(name, count, out_size, in_size)
        return [Dense(weight, self.arithmetic.project, place) for place in range(count)]

    def _quantized(self, name: str, count: int) -> list[Quantized]:
        arithmetic = self.arithmetic
        matrices = [
            Quantized(self.dtype, arithmetic.project, arithmetic.prepare) for _ in range(count)
        ]
        self.matrices[f"{self.name}{name}"] = matrices
        return matrices

    def settle(self) -> None:
        """Lay the loaded matrices out as the device multiplies them fastest.

        A CPU takes them column by column: one row times such a matrix takes two thirds of the
        time, and nothing takes longer. In place, with a copy of one matrix at a time.
        """
        if self.device.type == "cpu":
            for matrix in self.dense:
                _by_columns(matrix)


def _by_columns(matrix: torch.Tensor) -> None:
    *stacked, rows, columns = matrix.shape
    memory = matrix.view(*stacked, columns, rows)
    pairs = zip(memory.view(-1, columns, rows), matrix.view(-1, rows, columns), strict=True)
    for target, source in pairs:
        target.copy_(source.t().contiguous())
    matrix.data = memory.transpose(-1, -2)
