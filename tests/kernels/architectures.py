"""GPUs that kernels are compiled for and that are not here: 90 is sm_90."""

from aweigh_kernels.gpus import Gpu

ARCHITECTURES = (80, 89, 90, 100)
SMALL_BLACKWELL = 120  # which multiplies as GPUs before Hopper do
WARPGROUPS = (90, 100)  # that feed tensor cores, four warps together
SHORT_SUMS = (89, 90, 120)  # whose tensor cores may add 8-bit floating point with about 14 bits
PROCESSORS = 132
SHARED_BYTES = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}


def gpu(architecture: int, *, int8: bool = True) -> Gpu:
    """A large one. Of Blackwells some are slow at integers: those are sm_103."""
    return Gpu(
        PROCESSORS,
        SHARED_BYTES[architecture],
        early=architecture >= 90,
        fp8=architecture >= 89,
        warpgroups=architecture in WARPGROUPS,
        short_sums=architecture in SHORT_SUMS,
        int8=int8,
    )
