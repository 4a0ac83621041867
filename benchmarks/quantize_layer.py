"""How long quantizing one layer takes, per scheme, and what error it leaves.

    python benchmarks/quantize_layer.py [--device cpu] [--divide 8]

The matrices have the shapes of a layer of Llama 3.1 8B and random values; their inputs are random
and correlated, 8,192 tokens. The error is that of the outputs on those tokens, divided by RTN's in
4 bits with groups of 128: sqrt of the sum over all matrices of tr(E H Eᵀ). It is that of weights
alone: what rounding activations costs, and SmoothQuant saves, is not in it.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Protocol

import torch

from aweigh_bench import machine
from aweigh_kernels.weight import Weight
from aweigh_quantize.methods import awq, fp4, fp8, gptq, rtn, smooth, sparse
from aweigh_quantize.methods.grid import Grid
from aweigh_quantize.methods.inputs import Inputs

SHAPES = {
    "qkv": (6144, 4096),
    "out": (4096, 4096),
    "gate and up": (28_672, 4096),
    "down": (4096, 14_336),
}
TOKENS = 8192


class Dense(Protocol):
    """Something that stands for a matrix."""

    def dense(self) -> torch.Tensor:
        """[N, K]"""
        ...


Method = Callable[[torch.Tensor, Inputs], Dense]
METHODS: dict[str, Method] = {
    "RTN 4 bit g128": lambda weight, inputs: rtn.quantize(weight, Grid(bits=4)),
    "GPTQ 2 bit g128": lambda weight, inputs: gptq.quantize(weight, inputs, Grid(bits=2)),
    "GPTQ 3 bit g128": lambda weight, inputs: gptq.quantize(weight, inputs, Grid(bits=3)),
    "GPTQ 4 bit g128": lambda weight, inputs: gptq.quantize(weight, inputs, Grid(bits=4)),
    "GPTQ 8 bit g128": lambda weight, inputs: gptq.quantize(weight, inputs, Grid(bits=8)),
    "AWQ 4 bit g128": lambda weight, inputs: _awq(weight, inputs),
    "int8": lambda weight, inputs: smooth.quantize(weight),
    "int8, SmoothQuant's scales": lambda weight, inputs: _smooth(weight, inputs),
    "fp8 per channel": lambda weight, inputs: fp8.quantize(weight, "channel", inputs=inputs),
    "fp8 per block": lambda weight, inputs: fp8.quantize(weight, "block", inputs=inputs),
    "fp8 per tensor": lambda weight, inputs: fp8.quantize(weight, "tensor", inputs=inputs),
    "nvfp4": lambda weight, inputs: fp4.quantize(weight, inputs=inputs),
    "2:4 int4 g128": lambda weight, inputs: sparse.quantize(weight, inputs, Grid(bits=4)),
    "2:4 int8 g128": lambda weight, inputs: sparse.quantize(weight, inputs, Grid(bits=8)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--divide", type=int, default=1, help="every size by this")
    given = parser.parse_args()
    device = torch.device(given.device)
    print(" · ".join(f"{key} {value}" for key, value in machine.describe().items()))
    print(f"python {' '.join(sys.argv)}\n")
    layer = {
        name: matrix(rows // given.divide, columns // given.divide, device, TOKENS)
        for name, (rows, columns) in SHAPES.items()
    }
    print("| scheme | " + " | ".join(f"{name} s" for name in layer) + " | layer s | error |")
    print("|---|" + "---:|" * (len(layer) + 2))
    baseline = None
    for name, method in METHODS.items():
        seconds, loss = [], 0.0
        for weight, inputs in layer.values():
            _wait(device)
            started = time.perf_counter()
            found = method(weight, inputs)
            _wait(device)
            seconds.append(time.perf_counter() - started)
            error = found.dense() - weight
            loss += float(((error @ inputs.hessian) * error).sum(dtype=torch.float64))
        baseline = baseline or loss
        cells = " | ".join(f"{each:.2f}" for each in seconds)
        print(f"| {name} | {cells} | {sum(seconds):.2f} | {(loss / baseline) ** 0.5:.3f} |")


def matrix(
    rows: int, columns: int, device: torch.device, num_tokens: int
) -> tuple[torch.Tensor, Inputs]:
    """Inputs that vary in size and resemble each other, as those of a layer do."""
    generator = torch.Generator(device).manual_seed(rows)
    weight = torch.randn(rows, columns, generator=generator, device=device) * 0.02
    sizes = torch.randn(columns, generator=generator, device=device).exp_()
    mix = torch.randn(columns // 16, columns, generator=generator, device=device)
    inputs = Inputs(columns, device)
    for _ in range(8):
        shared = torch.randn(num_tokens // 8, columns // 16, generator=generator, device=device)
        own = torch.randn(num_tokens // 8, columns, generator=generator, device=device)
        inputs.add((shared @ mix * (16 / columns) ** 0.5 + own) * sizes)
    return weight, inputs


def _awq(weight: torch.Tensor, inputs: Inputs) -> Dense:
    grid = Grid(bits=4, symmetric=False)
    scales = awq.scales([weight], inputs, grid)
    scaled = weight * scales
    found = awq.quantize(scaled, grid, awq.clip(scaled, inputs.divided(scales), grid))
    return _Unscaled(found, scales)


def _smooth(weight: torch.Tensor, inputs: Inputs) -> Dense:
    scales = smooth.scales([weight], inputs)
    return _Unscaled(smooth.quantize(weight * scales), scales)


class _Unscaled:
    """A weight whose columns were scaled before they were rounded."""

    def __init__(self, weight: Weight, scales: torch.Tensor) -> None:
        self._weight, self._scales = weight, scales

    def dense(self) -> torch.Tensor:
        return self._weight.dense() / self._scales


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
