"""One quantized layer that is being trained, beside the dense one."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from aweigh_quantize.latent import Latent
from aweigh_quantize.one_layer import OneLayer

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # what the optimizer knows of a tensor
BYTES_PER_WEIGHT = 24  # fp32: dense, quantized, numbers, their gradient and two moments


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How far one step moves, at most and at first."""

    numbers: float = 3e-3  # integers
    scales: float = 2e-3  # of the logarithm
    norms: float = 4e-3


class TrainedLayer:
    """Numbers, scales and norms, each with its moments (Adam)."""

    def __init__(
        self, dense: OneLayer, layer: OneLayer, latents: Mapping[str, Latent], rates: Rates
    ) -> None:
        """`latents`: of the layer's quantized matrices, by module."""
        self.dense = dense
        self.layer = layer
        self._latents = latents
        norms = layer.train({module: latent.values for module, latent in latents.items()})
        numbers = {f"{name}.numbers": each.numbers for name, each in latents.items()}
        stretches = {f"{name}.stretch": each.stretch for name, each in latents.items()}
        self._trained = numbers | stretches | norms
        self._rates = [rates.numbers, rates.scales, rates.norms]
        groups = [numbers, stretches, norms]
        self._optimizer = torch.optim.AdamW(
            [{"params": list(group.values())} for group in groups],
            betas=(0.9, 0.99),
            eps=1e-12,  # gradients of single numbers are tiny
            weight_decay=0.0,
            fused=True,
        )

    def step(self, share: float) -> None:
        """Go along the gradient, by a share of the rates, and forget it."""
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = share * rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        for latent in self._latents.values():
            latent.settle()

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that training has changed."""
        found = {name: each.detach() for name, each in self._trained.items()}
        for name, each in self._trained.items():
            known = self._optimizer.state.get(each, {})
            found |= {f"{name}.{moment}": known[moment] for moment in _MOMENTS if moment in known}
        return found

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on with what `tensors` gave."""
        for name, each in self._trained.items():
            each.copy_(tensors[name])
            known = {moment: f"{name}.{moment}" for moment in _MOMENTS}
            self._optimizer.state[each] = {
                moment: tensors[full].to(each.device).clone()
                for moment, full in known.items()
                if full in tensors
            }

    def finish(self) -> OneLayer:
        """The layer as it will be stored: training is over."""
        self.layer.trained({module: latent.weight() for module, latent in self._latents.items()})
        return self.layer
