"""What a GPU has that products are divided and launched by."""

from dataclasses import dataclass
from functools import cache

import torch

from aweigh_kernels.dense import by_warpgroups, starts_early

LEAST_SHARED_BYTES = 99 << 10  # of a program, which every GPU has that kernels are written for
_FP8_SINCE = (8, 9)  # capability of GPUs whose tensor cores take it
_LONG_SUMS = 10  # major capability of large Blackwells, the only ones known for it
_SLOW_INTEGERS = (10, 3)  # Blackwell Ultra


@dataclass(frozen=True, slots=True)
class Gpu:
    """What a launch depends on."""

    num_processors: int  # multiprocessors
    shared_bytes: int  # shared memory of one program, at most
    early: bool  # kernels may start while the one before runs
    fp8: bool  # its tensor cores take numbers of 8-bit floating point
    warpgroups: bool  # four warps feed them together, with tiles that come by descriptors
    short_sums: bool  # they may add such numbers with about 14 bits
    int8: bool  # they multiply integers of 8 bits no slower than fp16

    @classmethod
    @cache
    def of(cls, device: torch.device) -> "Gpu":
        """Ask the device."""
        found = torch.cuda.get_device_properties(device)
        capability = found.major, found.minor
        return cls(
            found.multi_processor_count,
            found.shared_memory_per_block_optin,  # type: ignore[attr-defined]
            early=starts_early(device),
            fp8=capability >= _FP8_SINCE,
            warpgroups=by_warpgroups(device),
            short_sums=found.major != _LONG_SUMS,
            int8=capability != _SLOW_INTEGERS,
        )
