"""activation(gate) · up on a GPU, beside torch's."""

import re
from typing import get_args

import pytest
import torch

from aweigh_kernels.activation import Activation
from aweigh_kernels.gated import gated, reference

pytestmark = pytest.mark.gpu

ONE_STEP = {torch.bfloat16: 2**-7, torch.float16: 2**-10}  # between neighbouring numbers
FEW = 1e-3  # of all numbers may round the other way: fp32 has fewer bits than fp64
NAN = float("nan")


def gate_up(rows: int, size: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    chance = torch.Generator("cuda").manual_seed(rows + size)
    return (3 * torch.randn(rows, 2 * size, device="cuda", generator=chance)).to(dtype)


def check(x: torch.Tensor, activation: Activation) -> None:
    output = torch.full((len(x), x.shape[1] // 2), NAN, dtype=x.dtype, device="cuda")
    assert gated(x, activation, output=output) is output
    gate, up = x.double().chunk(2, -1)
    wanted = (exact(gate, activation).to(x.dtype).double() * up).to(x.dtype)
    # fp16 loses bits of what is smaller than any normal number.
    torch.testing.assert_close(output, wanted, rtol=2 * ONE_STEP[x.dtype], atol=2e-7)
    assert (output != wanted).sum() <= FEW * output.numel() + 2
    # Where 1 + tanh cancels, torch's own is off by more.
    torch.testing.assert_close(
        output, reference(x, activation), rtol=2 * ONE_STEP[x.dtype], atol=3e-6
    )


def exact(gate: torch.Tensor, activation: Activation) -> torch.Tensor:
    """In fp64."""
    if activation == "silu":
        return gate * gate.sigmoid()
    inner: torch.Tensor = 2 * (2 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3)
    return gate * inner.sigmoid()


@pytest.mark.parametrize("activation", get_args(Activation))
@pytest.mark.parametrize("dtype", list(ONE_STEP), ids=str)
@pytest.mark.parametrize("size", [1, 63, 512, 1000, 14_336])
def test_rows_of_any_size(activation: Activation, dtype: torch.dtype, size: int) -> None:
    for rows in (1, 7, 512):
        check(gate_up(rows, size, dtype), activation)


def test_more_rows_than_one_dimension_of_a_grid_has() -> None:
    check(gate_up(70_001, 600), "silu")


@pytest.mark.parametrize("activation", get_args(Activation))
def test_every_number_there_is(activation: Activation) -> None:
    every = torch.arange(1 << 16, dtype=torch.int32).short().view(torch.bfloat16).cuda()
    every = every[every.isfinite()]
    every = every[every.abs() < 1e12]  # torch cubes it: beyond, it multiplies 0 with infinity
    x = torch.stack((every, torch.ones_like(every)), 1).contiguous()
    output = gated(x, activation).flatten()
    # Where the exponential is almost too large for fp32, nothing is left of what is so small.
    torch.testing.assert_close(
        output.double(), exact(every.double(), activation), rtol=2**-8 + 1e-4, atol=1e-36
    )


def test_no_rows() -> None:
    assert gated(gate_up(0, 64), "silu").shape == (0, 64)


def test_launches_repeat_to_the_bit() -> None:
    x = gate_up(300, 1000)
    once = gated(x, "silu")
    assert all(torch.equal(gated(x, "silu"), once) for _ in range(20))


def test_memory_that_is_laid_out_otherwise_is_refused_by_name() -> None:
    x = gate_up(4, 64)
    for given, output, said in (
        (x[:, :64], None, "gate_up has strides [128, 1]"),
        (gate_up(4, 65)[:, :127].contiguous(), None, "gate_up is bfloat16 [4, 127]"),
        (x.float(), None, "gate_up is float32"),
        (x, torch.empty(64, 4, dtype=x.dtype, device="cuda").T, "output has strides [1, 4]"),
        (x, x, "output is bfloat16 [4, 128]"),
        (x.cpu(), None, "gate_up is on cpu"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            gated(given, "silu", output=output)
    with pytest.raises(ValueError, match="activation is relu"):
        gated(x, "relu")  # type: ignore[arg-type]
