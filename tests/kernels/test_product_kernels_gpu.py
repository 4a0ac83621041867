"""After a warm-up no product compiles a kernel, whatever the number of tokens."""

import pytest
import torch

from aweigh_kernels.product import compile_all
from aweigh_kernels.weight import prepare
from tests.kernels.sanitized import of_triton
from tests.kernels.test_byte_matmul_gpu import KINDS, on_gpu, weights
from tests.kernels.weights import Draw

pytestmark = pytest.mark.gpu

MOST_TOKENS = 1300
TOKENS = (*range(1, 130, 8), *range(130, MOST_TOKENS, 61), 256, 257, 511, 512, 513, MOST_TOKENS)
SIZES = [(1024, 4096), (6144, 1024), (300, 200)]


def compiled() -> dict[str, int]:
    """How many of each kernel this process has."""
    return {
        name: sum(len(cache) for cache, *_ in each.device_caches.values())
        for name, each in of_triton().items()
    }


def expect_no_more(weight: object, dtype: torch.dtype) -> None:
    product = prepare(on_gpu(weight), dtype)
    columns = product.kernels.x.shape[1]  # type: ignore[attr-defined]
    compile_all([product], MOST_TOKENS)
    before = compiled()
    assert any(before.values())
    for tokens in TOKENS:
        product(torch.zeros(tokens, columns, dtype=dtype, device="cuda"))
        assert compiled() == before, tokens


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_of_weights_of_8_bits(kind: str, size: tuple[int, int]) -> None:
    expect_no_more(weights(*size)[kind], torch.bfloat16)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("bits", "group"), [(2, 128), (3, 128), (4, 128), (4, 32), (8, 128)])
def test_of_packed_integers(bits: int, group: int, size: tuple[int, int]) -> None:
    weight = Draw().ints(*size, bits, group, asymmetric=True, act_order=True)
    expect_no_more(weight, torch.float16)


@pytest.mark.parametrize("scale", [None, 0.002])
def test_of_nvfp4(scale: float | None) -> None:
    for size in ((1024, 4096), (300, 208)):
        expect_no_more(Draw().fp4(*size, scale), torch.bfloat16)
