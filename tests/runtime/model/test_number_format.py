import pytest
import torch

from aweigh_api.spec import DTypeName
from aweigh_runtime.model.number_format import compute_dtype, native_on_cpu

CUDA = torch.device("cuda")


@pytest.mark.parametrize("checkpoint", [torch.bfloat16, torch.float16, torch.float32])
def test_auto_is_the_checkpoints_format_on_a_gpu(checkpoint: torch.dtype) -> None:
    assert compute_dtype("auto", checkpoint, CUDA) == checkpoint


def test_auto_avoids_a_format_that_the_cpu_only_emulates() -> None:
    plain = {"avx2": True, "avx512_bf16": False, "amx_bf16": False}

    assert not native_on_cpu(torch.bfloat16, plain)
    assert not native_on_cpu(torch.float16, plain)
    assert native_on_cpu(torch.float32, plain)
    assert native_on_cpu(torch.bfloat16, plain | {"avx512_bf16": True})


def test_auto_on_this_cpu_follows_its_capabilities(cpu: torch.device) -> None:
    native = native_on_cpu(torch.bfloat16, torch.cpu.get_capabilities())
    expected = torch.bfloat16 if native else torch.float32

    assert compute_dtype("auto", torch.bfloat16, cpu) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)],
)
def test_what_the_user_asks_for_is_taken_everywhere(
    cpu: torch.device, wanted: DTypeName, expected: torch.dtype
) -> None:
    assert compute_dtype(wanted, torch.float32, cpu) == expected
    assert compute_dtype(wanted, torch.bfloat16, CUDA) == expected
