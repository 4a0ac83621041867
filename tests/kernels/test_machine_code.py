"""Reading machine code finds what is wrong in a kernel that was made wrong on purpose."""

import pytest

from tests.kernels.machine_code import compiled
from tests.kernels.overwriting import add_products


@pytest.mark.parametrize("awaited", [True, False])
def test_products_that_go_on_while_their_registers_are_overwritten_are_found(awaited: bool) -> None:
    types = {"x": "*bf16", "words": "*i8", "output": "*fp32", "num_tokens": "i32"}
    constants = {"STEPS": 64, "AWAITED": awaited}
    code = compiled(add_products, 90, types, constants, num_warps=4, num_stages=3)
    assert code.count("HGMMA")
    assert code.overwrites_operands() == (not awaited)
