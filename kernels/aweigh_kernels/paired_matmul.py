"""Products of a few tokens, and what follows them in a layer, in one kernel (Triton).

Gates meet what goes through them, and halves of heads are turned, where their sums are: a launch
less, and 2 to 3 us in which a GPU would wait for it. Each gives the bits of the two kernels that it
replaces. Bound and schedule: `skinny_matmul`.
"""

from dataclasses import dataclass

import torch

from aweigh_kernels.activation import Activation
from aweigh_kernels.dense import NARROW, expect_dense
from aweigh_kernels.gpu.skinny_matmul import multiply_gated, multiply_turned
from aweigh_kernels.rope_write import FP8
from aweigh_kernels.rounding import ByteRounding, Rounded
from aweigh_kernels.skinny_matmul import MOST_TOKENS, Scratch, launch, schedule_on


def gated_matmul(
    x: torch.Tensor,
    weight: torch.Tensor,
    scratch: Scratch,
    activation: Activation,
    *,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """activation(gates) · up of x · weightᵀ; see `gated`.

    Args:
        x: [T, I], bf16 or fp16, contiguous like all of them; T is 1 to MOST_TOKENS.
        weight: [2M, I], as x; gates first.
        scratch: see `skinny_matmul`.
        activation: silu, or gelu by its tanh formula.
        bias: [2M], as x.

    Returns:
        [T, M], as x.

    Raises:
        ValueError: shapes, number formats, strides or devices are others.
    """
    num_tokens, in_size, out_size = _expect_product(x, weight, bias)
    if out_size % 2:
        raise ValueError(f"weight has {out_size} rows; expected as many gates as what they let by")
    output = x.new_empty(num_tokens, out_size // 2)
    chosen = schedule_on(x.device, num_tokens, out_size, in_size)
    gelu = activation == "gelu_pytorch_tanh"
    launch(multiply_gated, (x, weight, bias, output), scratch, chosen, GELU=gelu)
    return output


def turned_matmul(  # noqa: PLR0913 - two operations in one
    x: torch.Tensor,
    weight: torch.Tensor,
    scratch: Scratch,
    turn: tuple[torch.Tensor, torch.Tensor],
    kv: torch.Tensor,
    slots: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    kv_scales: tuple[float, float] = (1.0, 1.0),
) -> torch.Tensor:
    """The heads of x · weightᵀ, queries and keys turned, keys and values kept; see `rope_write`.

    Args:
        x: [T, I], bf16 or fp16, contiguous like all of them; T is 1 to MOST_TOKENS.
        weight: [(H+2K) · D, I], as x.
        scratch: see `skinny_matmul`.
        turn: cos and sin, [T, D] or [T, 1, D], as x.
        kv: [B, P, 2K, D], keys first; as x, or fp8. `turns` says of which D.
        slots: [T], int64, block · P + place in it; negative: padding, kept nowhere.
        bias: [(H+2K) · D], as x.
        kv_scales: of keys and values, see `rope_write`.

    Returns:
        [T, H+2K, D], as x.

    Raises:
        ValueError: shapes, number formats, strides or devices are others.
    """
    num_tokens, in_size, out_size = _expect_product(x, weight, bias)
    expect_heads((num_tokens, out_size), turn, kv, slots, x.dtype)
    kv_rows, size = kv.shape[2:]
    chosen = schedule_on(x.device, num_tokens, out_size, in_size)
    expect_tiles(size, chosen.rows)
    output = x.new_empty(num_tokens, out_size // size, size)
    launch(
        multiply_turned,
        (x, weight, bias, output),
        scratch,
        chosen,
        *turn,
        kv,
        slots,
        *kv_scales,
        SIZE=size,
        KV_HEADS=kv_rows // 2,
        FP8=kv.dtype == FP8,
    )
    return output


def turns(x: torch.Tensor, weight: torch.Tensor, size: int) -> bool:
    """Whether `turned_matmul` takes so many tokens, and heads of so many numbers."""
    num_tokens, in_size = x.shape
    if not 0 < num_tokens <= MOST_TOKENS:
        return False
    return size % schedule_on(x.device, num_tokens, len(weight), in_size).rows == 0


@dataclass(frozen=True, slots=True)
class PairedDense:
    """See `PairedProduct`: of a matrix of 16 bits, which rounds nothing."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    scratch: Scratch

    def gates(self, x: torch.Tensor | Rounded, rounding: ByteRounding | None) -> bool:
        """See `PairedProduct`."""
        return isinstance(x, torch.Tensor) and 0 < len(x) <= MOST_TOKENS

    def gated(
        self, x: torch.Tensor | Rounded, activation: Activation, rounding: ByteRounding | None
    ) -> torch.Tensor:
        """See `PairedProduct`."""
        assert isinstance(x, torch.Tensor)
        return gated_matmul(x, self.weight, self.scratch, activation, bias=self.bias)

    def turns(self, x: torch.Tensor | Rounded, size: int) -> bool:
        """See `PairedProduct`."""
        return isinstance(x, torch.Tensor) and turns(x, self.weight, size)

    def turned(
        self,
        x: torch.Tensor | Rounded,
        turn: tuple[torch.Tensor, torch.Tensor],
        kv: torch.Tensor,
        slots: torch.Tensor,
        kv_scales: tuple[float, float],
    ) -> torch.Tensor:
        """See `PairedProduct`."""
        assert isinstance(x, torch.Tensor)
        return turned_matmul(
            x, self.weight, self.scratch, turn, kv, slots, bias=self.bias, kv_scales=kv_scales
        )


def expect_heads(
    size: tuple[int, int],
    turn: tuple[torch.Tensor, torch.Tensor],
    kv: torch.Tensor,
    slots: torch.Tensor,
    dtype: torch.dtype,
) -> None:
    """Refuse what heads cannot be turned by, or kept in; see `turned_matmul`.

    Args:
        size: T, and the weight's rows.
        turn: cos and sin.
        kv: the cache.
        slots: where.
        dtype: of heads.

    Raises:
        ValueError: names what it is, and what was expected.
    """
    num_tokens, out_size = size
    num_blocks, block_tokens, kv_rows, head_size = kv.shape
    shape = [num_blocks, block_tokens, kv_rows // 2 * 2, head_size]
    expect_dense("kv", kv, shape, [dtype, FP8])
    for name, tensor in zip(("cos", "sin"), turn, strict=True):
        expect_dense(name, tensor.view(-1, head_size), [num_tokens, head_size], [dtype])
    expect_dense("slots", slots, [num_tokens], [torch.int64])
    if out_size % head_size or out_size <= kv_rows * head_size:
        raise ValueError(
            f"weight has {out_size} rows for kv {list(kv.shape)}; expected (H+2K) · D of them"
        )


def expect_tiles(size: int, rows: int) -> None:
    """Refuse heads of which a tile of so many rows would have more than one.

    Raises:
        ValueError: says what was expected.
    """
    if size % rows:
        raise ValueError(f"heads have {size} numbers; expected a multiple of {rows}")


def _expect_product(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[int, int, int]:
    """T, I and O."""
    (num_tokens, in_size), out_size = x.shape, len(weight)
    expect_dense("x", x, [num_tokens, in_size], NARROW)
    expect_dense("weight", weight, [out_size, in_size], [x.dtype])
    if bias is not None:
        expect_dense("bias", bias, [out_size], [x.dtype])
    if not 0 < num_tokens <= MOST_TOKENS:
        raise ValueError(f"x has {num_tokens} rows; expected 1 to {MOST_TOKENS}")
    return num_tokens, in_size, out_size
