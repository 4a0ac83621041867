"""Products of few tokens with packed integers and what follows them in a layer, in CUDA C++.

See `int_matmul`. A block has whole pairs: gates and what goes through them, or heads.
"""

from dataclasses import dataclass

import torch

from aweigh_kernels.activation import Activation
from aweigh_kernels.cuda_int_matmul import GATES, TURN, Schedule
from aweigh_kernels.dense import NARROW, expect_beside, expect_dense
from aweigh_kernels.int_matmul import MOST_TOKENS_CUDA, in_cuda, launch_cuda, schedule_cuda_on
from aweigh_kernels.int_packing import ROWS, Packed
from aweigh_kernels.paired_matmul import expect_heads
from aweigh_kernels.rope_write import FP8
from aweigh_kernels.rounding import ByteRounding, Rounded
from aweigh_kernels.skinny_matmul import Scratch


@dataclass(frozen=True, slots=True)
class PairedInts:
    """See `PairedProduct`: of what the kernel in CUDA C++ multiplies. It rounds nothing."""

    packed: Packed
    scratch: Scratch

    def gates(self, x: torch.Tensor | Rounded, rounding: ByteRounding | None) -> bool:
        """See `PairedProduct`."""
        return self._takes(x) and self.packed.shape[0] % ROWS == 0

    def gated(
        self, x: torch.Tensor | Rounded, activation: Activation, rounding: ByteRounding | None
    ) -> torch.Tensor:
        """See `PairedProduct`."""
        x, chosen, rows = self._expected(x), self._chosen(x), self.packed.shape[0]
        if rows % ROWS:
            raise ValueError(f"the weight has {rows} rows; expected a multiple of {ROWS}")
        output = x.new_empty(len(x), rows // 2)
        after = {"after": GATES[activation]}
        launch_cuda(x, self.packed, output, self.scratch, chosen, after)
        return output

    def turns(self, x: torch.Tensor | Rounded, size: int) -> bool:
        """See `PairedProduct`."""
        return self._takes(x) and self._chosen(x).rows % size == 0

    def turned(
        self,
        x: torch.Tensor | Rounded,
        turn: tuple[torch.Tensor, torch.Tensor],
        kv: torch.Tensor,
        slots: torch.Tensor,
        kv_scales: tuple[float, float],
    ) -> torch.Tensor:
        """See `PairedProduct`."""
        x, chosen, rows = self._expected(x), self._chosen(x), self.packed.shape[0]
        expect_heads((len(x), rows), turn, kv, slots, x.dtype)
        if chosen.rows % kv.shape[3]:
            raise ValueError(
                f"heads have {kv.shape[3]} numbers; expected that they divide {chosen.rows}"
            )
        output = x.new_empty(len(x), rows // kv.shape[3], kv.shape[3])
        after = turning(turn, kv, slots, kv_scales)
        launch_cuda(x, self.packed, output, self.scratch, chosen, after)
        return output

    def _takes(self, x: torch.Tensor | Rounded) -> bool:
        return (
            isinstance(x, torch.Tensor)
            and 0 < len(x) <= MOST_TOKENS_CUDA
            and in_cuda(len(x), self.packed, x.dtype)
            and self._chosen(x).tiles == 1
        )

    def _expected(self, x: torch.Tensor | Rounded) -> torch.Tensor:
        if not isinstance(x, torch.Tensor) or not self._takes(x):
            raise ValueError(
                f"x has {len(x) if isinstance(x, torch.Tensor) else 'rounded'} rows; expected 1 to "
                f"{MOST_TOKENS_CUDA}, and what the kernel in CUDA C++ multiplies"
            )
        expect_dense("x", x, [len(x), self.packed.shape[1]], NARROW)
        expect_beside("x", x, self.packed.words)
        return x

    def _chosen(self, x: torch.Tensor | Rounded) -> Schedule:
        assert isinstance(x, torch.Tensor)
        return schedule_cuda_on(x.device, len(x), self.packed, x.dtype)


def turning(
    turn: tuple[torch.Tensor, torch.Tensor],
    kv: torch.Tensor,
    slots: torch.Tensor,
    kv_scales: tuple[float, float],
) -> dict[str, float]:
    """How heads are turned and kept, in the words of `Arguments`."""
    cos, sin = turn
    return {
        "after": TURN,
        "cos": cos.data_ptr(),
        "sin": sin.data_ptr(),
        "kv": kv.data_ptr(),
        "slots": slots.data_ptr(),
        "size": kv.shape[3],
        "kv_heads": kv.shape[2] // 2,
        "kept_as_fp8": kv.dtype == FP8,
        "key_scale": kv_scales[0],
        "value_scale": kv_scales[1],
    }
