"""What the GPU kernel of the norm becomes on GPUs that are not here."""

import pytest

from aweigh_kernels.gpu.rms_norm import normalize
from aweigh_kernels.rms_norm import MOST_COLUMNS, num_warps_of
from tests.kernels.architectures import ARCHITECTURES
from tests.kernels.machine_code import compiled

WIDE = 16  # bytes that one instruction reads


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("size", [4096, MOST_COLUMNS])
def test_rows_stay_in_registers_and_are_read_16_bytes_at_a_time(
    architecture: int, size: int
) -> None:
    types = dict.fromkeys(("x", "residual", "weight", "output"), "*bf16")
    types |= {"num_rows": "i32", "eps": "fp32"}
    early, warps = architecture >= 90, num_warps_of(size)
    constants = {"SIZE": size, "SIZE_UP": size, "ROWS": 1, "ADD": True, "EARLY": early}
    code = compiled(normalize, architecture, types, constants, num_warps=warps, num_stages=3)
    loads = 3 * size * 2 // (WIDE * 32 * warps)  # x, residual and weight
    assert code.count(r"LDG\.E\.128") == loads
    assert code.stack_bytes == 0
    assert bool(code.count("ACQBULK")) == early
