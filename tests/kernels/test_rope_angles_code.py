"""What the GPU kernel of rotary angles becomes on GPUs that are not here."""

import pytest

from aweigh_kernels.gpu.rope_angles import turn_by
from tests.kernels.architectures import ARCHITECTURES
from tests.kernels.machine_code import compiled


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_angles_of_far_positions_are_reduced_exactly(architecture: int) -> None:
    types = {"positions": "*i64", "frequencies": "*fp32", "signs": "*fp32", "cos": "*bf16"}
    types |= {"sin": "*bf16", "amplitude": "fp32", "num_tokens": "i32"}
    constants = {"SIZE": 128, "SIZE_UP": 128, "ROWS": 4, "EARLY": architecture >= 90}
    code = compiled(turn_by, architecture, types, constants, num_warps=4, num_stages=3)
    assert not code.count(r"MUFU\.(SIN|COS)")  # which know few bits of large angles
    assert code.stack_bytes == 32  # bits of 2/π
    assert code.registers <= 64
    assert code.count(r"STG\.E\.64") == 2
