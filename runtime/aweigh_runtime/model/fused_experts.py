"""Experts by our own GPU kernels: routed where the tokens are, all of them multiplied together.

That takes weights of one kind, stacked as they are loaded. Others are multiplied one expert after
the other, as on a CPU, and the device is waited for.
"""

from collections.abc import Sequence
from typing import Protocol

import torch

from aweigh_kernels.expert_stack import DenseStack, QuantizedStack, Stack, stack_of
from aweigh_kernels.gated import gated
from aweigh_kernels.product import Product
from aweigh_kernels.round_rows import round_gated
from aweigh_kernels.routing import add_weighted, route
from aweigh_kernels.weight import Weight, stack
from aweigh_runtime.model.added_norm import AddedNorm
from aweigh_runtime.model.config import Experts, LayerConfig, ModelConfig
from aweigh_runtime.model.matrix import Quantized
from aweigh_runtime.model.mlp import chosen_experts, one_by_one
from aweigh_runtime.model.projection import Projection
from aweigh_runtime.model.storage import Storage


class FusedExperts:
    """A router that gives each token to a few of E small MLPs, behind a norm."""

    def __init__(
        self, config: ModelConfig, layer: LayerConfig, experts: Experts, storage: Storage
    ) -> None:
        count, size, width = experts.count, layer.mlp_size, config.hidden_size
        self._norm = AddedNorm(config, storage)
        self._router = Projection(count, width, False, storage.within("router"))
        self._gate_up = _matrices(storage, "gate_up", count, 2 * size, width)  # E of [2M, N]
        self._down = _matrices(storage, "down", count, width, size)  # E of [N, M]
        self._experts = experts
        self._activation = config.activation

    @property
    def waits(self) -> bool:
        """Whether it waits for the device, now that it is loaded."""
        return self._gate_up.stack is None or self._down.stack is None

    def __call__(self, hidden: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
        """[T, N], to be added to `hidden`, which gets `update`."""
        normed = self._norm(hidden, update)
        logits = self._router(normed)
        if self._gate_up.stack is None or self._down.stack is None:
            weights, chosen = chosen_experts(logits, self._experts)
            return one_by_one(normed, weights, chosen, self._one)
        each, normalized = self._experts.per_token, self._experts.normalized
        routed = route(logits, each, normalized=normalized)
        gate_up = self._gate_up.stack(normed, routed)  # [T·k, 2M]
        rounding = self._down.stack.rounding
        if rounding is None:
            found = self._down.stack(gated(gate_up, self._activation), routed)
        else:
            found = self._down.stack(round_gated(gate_up, self._activation, rounding), routed)
        return add_weighted(found, routed.weights)

    def _one(self, rows: torch.Tensor, expert: int) -> torch.Tensor:
        gate_up = self._gate_up.one(expert)(rows)
        return self._down.one(expert)(gated(gate_up, self._activation))


class Matrices(Protocol):
    """One for each expert, [E, out, in]."""

    @property
    def stack(self) -> Stack | None:
        """All of them, once they are loaded; None: they are not of one kind."""

    def one(self, expert: int) -> Product:
        """One of them alone."""


class DenseMatrices:
    """Matrices of 16 bits."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.stack = DenseStack(weight)

    def one(self, expert: int) -> Product:
        """See `Matrices`."""
        return self.stack.one(expert)


class QuantizedMatrices:
    """Quantized ones, empty until they are filled."""

    def __init__(self, count: int, storage: Storage) -> None:
        arithmetic = storage.arithmetic
        self.stack: QuantizedStack | None = None
        self._dtype = storage.dtype
        self._apart = False  # one of them fits into no stack with the others
        self._stacked: list[int] = []
        self._alone = [
            Quantized(storage.dtype, arithmetic.project, arithmetic.prepare) for _ in range(count)
        ]

    def one(self, expert: int) -> Product:
        """See `Matrices`."""
        return self._alone[expert] if self.stack is None else self.stack.one(expert)

    def alone(self, expert: int) -> Sequence[Product]:
        """Those that compute an expert's by itself; none while all are stacked."""
        return self._alone[expert].products

    def fill(self, expert: int, shards: Sequence[torch.Tensor | Weight]) -> None:
        """Take the rows of all shards of an expert's matrix, in their order."""
        whole = _whole(shards)
        if whole is not None and self._takes(expert, whole):
            self._stacked.append(expert)
            return
        self._part()
        self._alone[expert].fill(shards)

    def _takes(self, expert: int, weight: Weight) -> bool:
        if self.stack is None and not self._apart:
            self.stack = stack_of(weight, len(self._alone), self._dtype)
        return self.stack is not None and self.stack.put(expert, weight)

    def _part(self) -> None:
        """From now on each is multiplied by itself, and no room is kept for all."""
        if self.stack is not None:
            for expert in self._stacked:
                self._alone[expert].use(self.stack.copied(expert))
        self.stack, self._apart = None, True


class _Place:
    """What loading fills of them: one expert's."""

    def __init__(self, matrices: QuantizedMatrices, expert: int) -> None:
        self._matrices = matrices
        self._expert = expert

    @property
    def recordable(self) -> bool:
        """See `Filled`."""
        return self._matrices.stack is not None

    @property
    def products(self) -> Sequence[Product]:
        """See `Filled`: that of a stack is none of one expert's."""
        return self._matrices.alone(self._expert)

    def fill(self, shards: Sequence[torch.Tensor | Weight]) -> None:
        """See `Filled`."""
        self._matrices.fill(self._expert, shards)


def _matrices(storage: Storage, name: str, count: int, out_size: int, in_size: int) -> Matrices:
    if storage.is_dense(name):
        return DenseMatrices(storage.columns(name, count, out_size, in_size))
    matrices = QuantizedMatrices(count, storage)
    places = [_Place(matrices, expert) for expert in range(count)]
    storage.matrices[f"{storage.name}{name}"] = places
    return matrices


def _whole(shards: Sequence[torch.Tensor | Weight]) -> Weight | None:
    """All rows as one weight; None: they are of several kinds."""
    weights = [shard for shard in shards if not isinstance(shard, torch.Tensor)]
    stacked = stack(weights) if len(weights) == len(shards) else []
    return stacked[0] if len(stacked) == 1 else None
