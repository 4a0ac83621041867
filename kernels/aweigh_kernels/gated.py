"""activation(gate) · up of an MLP, from the one array that both come in (Triton).

As torch rounds: the activation once, to the activations' numbers, and the product once. Bound:
memory; 3·T·M numbers move.
"""

import torch
import triton

from aweigh_kernels.activation import Activation
from aweigh_kernels.dense import NARROW, expect_dense, starts_early
from aweigh_kernels.gpu.gated import multiply_gated

BLOCK = 2048  # numbers of a program: smaller ones start more slowly than memory answers
NUM_WARPS = 8


def gated(
    gate_up: torch.Tensor, activation: Activation, *, output: torch.Tensor | None = None
) -> torch.Tensor:
    """Multiply each row's second half by what an activation makes of its first.

    Args:
        gate_up: [T, 2M], gates first; bf16 or fp16, contiguous; T may be 0. Fastest where M
            numbers are a multiple of 16 bytes.
        activation: silu, or gelu by its tanh formula, in fp32.
        output: [T, M], as gate_up, contiguous. None: new memory.

    Returns:
        output: [T, M].

    Raises:
        ValueError: shapes, number formats, strides or devices are others, or there is no such
            activation.
    """
    num_rows, width = gate_up.shape
    size = width // 2
    expect_dense("gate_up", gate_up, [num_rows, 2 * size], NARROW)
    if output is None:
        output = gate_up.new_empty(num_rows, size)
    expect_dense("output", output, [num_rows, size], [gate_up.dtype])
    if activation not in ("silu", "gelu_pytorch_tanh"):
        raise ValueError(f"activation is {activation}; expected silu or gelu_pytorch_tanh")
    if output.numel():
        _launch(gate_up, activation, output)
    return output


def reference(gate_up: torch.Tensor, activation: Activation) -> torch.Tensor:
    """The same by torch, on any device."""
    gate, up = gate_up.chunk(2, -1)
    if activation == "silu":
        return torch.nn.functional.silu(gate).mul_(up)
    return torch.nn.functional.gelu(gate, approximate="tanh").mul_(up)


def _launch(gate_up: torch.Tensor, activation: Activation, output: torch.Tensor) -> None:
    num_rows, size = output.shape
    chunks = triton.cdiv(size, BLOCK)
    early = starts_early(gate_up.device)
    multiply_gated[(num_rows * chunks,)](
        gate_up,
        output,
        SIZE=size,
        CHUNKS=chunks,
        BLOCK=BLOCK,
        GELU=activation == "gelu_pytorch_tanh",
        EARLY=early,
        num_warps=NUM_WARPS,
        launch_pdl=early,
    )
