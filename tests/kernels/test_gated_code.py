"""What the GPU kernel of gates becomes on GPUs that are not here."""

import pytest

from aweigh_kernels import gated
from aweigh_kernels.gpu.gated import multiply_gated
from tests.kernels.architectures import ARCHITECTURES
from tests.kernels.machine_code import compiled


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("gelu", [False, True])
def test_two_loads_of_16_bytes_are_on_their_way(architecture: int, gelu: bool) -> None:
    early = architecture >= 90
    constants = {"SIZE": 14_336, "CHUNKS": 7, "BLOCK": gated.BLOCK, "GELU": gelu, "EARLY": early}
    types = dict.fromkeys(("gate_up", "output"), "*bf16")
    code = compiled(
        multiply_gated, architecture, types, constants, num_warps=gated.NUM_WARPS, num_stages=3
    )
    assert code.count(r"LDG\.E\.128") == 2
    assert code.count(r"STG\.E\.128") == 1
    assert code.stack_bytes == 0
    assert bool(code.count("ACQBULK")) == early
