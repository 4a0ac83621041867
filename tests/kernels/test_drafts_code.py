"""What the GPU kernels of drafts that stay on the device become on GPUs that are not here."""

import pytest

from aweigh_kernels.draft_chain import CHOOSE_WARPS, FOLLOW_WARPS, WEIGH_WARPS
from aweigh_kernels.gpu import draft_chain
from tests.kernels.architectures import ARCHITECTURES
from tests.kernels.machine_code import MachineCode, compiled

NUMBERS = ("size", "width", "parts", "length", "stride", "requests", "last_token")
TYPES = (
    dict.fromkeys(("logits", "tops", "sums", "confidences"), "*fp32")
    | dict.fromkeys(("likeliest", "counts", "seen", "places", "rooms", "table"), "*i32")
    | dict.fromkeys(("pair_counts", "pair_seen"), "*i32")
    | dict.fromkeys(NUMBERS, "i32")
)


def code(name: str, architecture: int, num_warps: int, **constants: int) -> MachineCode:
    kernel = getattr(draft_chain, name)
    chosen = constants | {"EARLY": architecture >= 90}
    own = {each: value for each, value in chosen.items() if each in kernel.arg_names}
    types = {each: TYPES.get(each, "*i64") for each in kernel.arg_names if each not in own}
    return compiled(
        kernel, architecture, types, own, ["size", "width"], num_warps=num_warps, num_stages=3
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_read_once_16_bytes_at_a_time(architecture: int) -> None:
    found = code("weigh", architecture, WEIGH_WARPS, EACH=1)
    assert found.count(r"LDG\.E\.128") == draft_chain.CHUNK.value // (32 * WEIGH_WARPS * 4)
    assert found.stack_bytes == 0
    assert bool(found.count("ACQBULK")) == (architecture >= 90)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_moves_a_request_stays_in_registers(architecture: int) -> None:
    choose = code("choose", architecture, CHOOSE_WARPS, PARTS_UP=128, BLOCK_TOKENS=16)
    follow = code("follow", architecture, FOLLOW_WARPS, LENGTH_UP=8, BLOCK_TOKENS=16)
    assert choose.stack_bytes == follow.stack_bytes == 0
