"""The MLP of a layer: one for all tokens, or experts of which each token uses a few."""

from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import gelu, silu

from aweigh_runtime.model.arithmetic import RowOperation
from aweigh_runtime.model.config import Activation, Experts, LayerConfig, ModelConfig
from aweigh_runtime.model.norm import norm
from aweigh_runtime.model.projection import Projection, out_projection
from aweigh_runtime.model.storage import Storage

_ACTIVATIONS: dict[Activation, RowOperation] = {
    "silu": silu,
    "gelu_pytorch_tanh": partial(gelu, approximate="tanh"),
}


class MLP:
    """down(activation(gate) · up), behind a norm."""

    def __init__(self, config: ModelConfig, layer: LayerConfig, storage: Storage) -> None:
        size, bias = layer.mlp_size, config.mlp_bias
        self._norm = norm(config, storage)
        self._gate_up = Projection(2 * size, config.hidden_size, bias, storage.within("gate_up"))
        self._down = out_projection(config, size, bias, storage.within("down"))
        self._activate = _activate(config, layer, storage)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """[T, N] to [T, N]."""
        gate, up = self._gate_up(self._norm(hidden)).chunk(2, -1)  # [T, M] each
        return self._down(self._activate(gate).mul_(up))


class ExpertsMLP:
    """A router that gives each token to a few of E small MLPs, behind a norm."""

    def __init__(
        self, config: ModelConfig, layer: LayerConfig, experts: Experts, storage: Storage
    ) -> None:
        count, size, width = experts.count, layer.mlp_size, config.hidden_size
        self._norm = norm(config, storage)
        self._router = Projection(count, width, False, storage.within("router"))
        self._gate_up = storage.stacked("gate_up", count, 2 * size, width)  # E of [2M, N]
        self._down = storage.stacked("down", count, width, size)  # E of [N, M]
        self._experts = experts
        self._activate = _activate(config, layer, storage)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """[T, N] to [T, N]. O(experts hit) products; the device is waited for once.

        A token's experts are added in the order of their weights, whoever else is in the step.
        """
        normed = self._norm(hidden)
        weights, chosen = chosen_experts(self._router(normed), self._experts)
        return one_by_one(normed, weights, chosen, self._one)

    def _one(self, rows: torch.Tensor, expert: int) -> torch.Tensor:
        gate, up = self._gate_up[expert](rows).chunk(2, -1)
        return self._down[expert](self._activate(gate).mul_(up))


def chosen_experts(logits: torch.Tensor, experts: Experts) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights of each token's experts and which they are, [T, experts per token] both."""
    shares = logits.softmax(-1, dtype=torch.float32)
    weights, chosen = shares.topk(experts.per_token, -1)
    if experts.normalized:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights, chosen


def one_by_one(
    rows: torch.Tensor,
    weights: torch.Tensor,
    chosen: torch.Tensor,
    expert: Callable[[torch.Tensor, int], torch.Tensor],
) -> torch.Tensor:
    """Each token by its experts, one expert after the other; the device is waited for once.

    Args:
        rows: [T, N].
        weights, chosen: see `chosen_experts`.
        expert: what one makes of its rows, [n, N] to [n, N].

    Returns:
        [T, N].
    """
    by_expert, order = chosen.flatten().sort(stable=True)
    each = weights.shape[1]
    rows = rows[order // each]
    found = torch.empty_like(rows)
    first = 0
    for which, count in enumerate(by_expert.bincount().tolist()):
        if count:
            last = first + count
            found[order[first:last]] = expert(rows[first:last], which)
            first = last
    parts = found.view(*weights.shape, -1) * weights[..., None]
    return parts.sum(1).to(rows.dtype)


def mlp(config: ModelConfig, layer: LayerConfig, storage: Storage) -> MLP | ExpertsMLP:
    """What a layer needs."""
    if layer.experts is None:
        return MLP(config, layer, storage)
    return ExpertsMLP(config, layer, layer.experts, storage)


def _activate(config: ModelConfig, layer: LayerConfig, storage: Storage) -> RowOperation:
    operation, by_rows = _ACTIVATIONS[config.activation], storage.arithmetic.by_rows
    return lambda gate: by_rows(operation, gate, layer.mlp_size)
