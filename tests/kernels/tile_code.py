"""What kernels that multiply with packed tiles must become on GPUs that are not here."""

from collections.abc import Mapping
from typing import Any

from aweigh_kernels.tile_schedule import Schedule, Tiled, schedule
from tests.kernels.architectures import PROCESSORS, SHARED_BYTES
from tests.kernels.machine_code import MachineCode, compiled


def multiplied_by(
    multiply: Any,
    architecture: int,
    packed: Tiled,
    tensors: Mapping[str, str],
    num_tokens: int,
    kind: str,
    *,
    unrolls: bool = False,
) -> tuple[MachineCode, int]:
    """The code that so many tokens meet, and the numbers that a thread unpacks in a step.

    Args:
        multiply: of Triton.
        architecture: 90 is sm_90.
        packed: the weight.
        tensors: types of the packed ones.
        num_tokens: T.
        kind: of x.
        unrolls: whether the kernel has several tiles in a step.
    """
    types = {"x": f"*{kind}", **tensors, "output": f"*{kind}", "sums": "*fp32", "arrived": "*i32"}
    chosen = schedule(num_tokens, packed, PROCESSORS).within(SHARED_BYTES[architecture], packed)
    constants = packed.constants | chosen.constants | {"EARLY": architecture >= 90, "PAIRS": True}
    if unrolls:
        constants["UNROLL"] = chosen.unroll
    code = compiled(
        multiply,
        architecture,
        types | {"num_tokens": "i32"},
        constants,
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
    )
    return code, unpacked_at_once(chosen, packed, unrolls=unrolls)


def unpacked_at_once(chosen: Schedule, packed: Tiled, *, unrolls: bool) -> int:
    """Numbers of a thread."""
    tiles = chosen.unroll if unrolls else 1
    return chosen.rows * packed.depth * tiles // (32 * chosen.num_warps)


def expect_unpacked_in_registers(code: MachineCode, architecture: int) -> None:
    """Tensor cores take what asynchronous copies bring, and no step waits for memory."""
    assert code.stack_bytes == 0
    assert code.shared_bytes <= SHARED_BYTES[architecture]
    assert code.count("LDGSTS")  # asynchronous copies
    assert bool(code.count("ACQBULK")) == (architecture >= 90)
    if architecture == 100:  # whose tensor cores take them from memory of their own
        assert code.count("UTCHMMA")
        assert code.tensor_columns <= 512
        return
    loop = code.loop()
    assert not code.overwrites_operands()
    assert loop.count("HGMMA" if architecture == 90 else "HMMA")
    for waits in ("STS", "STSM", "SHFL", "LDG", "LDL"):
        assert not loop.count(waits), waits


def expect_resident(code: MachineCode, num_tokens: int, num_rows: int) -> None:
    """A Hopper has room for as many programs at once as their schedule counts on."""
    alone = num_tokens <= 64 and num_rows > 128 * PROCESSORS  # nobody's registers hold sums
    few = 2 if num_tokens <= 16 else 3
    programs, threads = (few, 128) if num_tokens <= 32 else (1 + alone, 256)
    assert code.registers * programs * threads <= 65_536  # of a multiprocessor
    assert (code.shared_bytes + 1024) * programs <= 228 << 10
