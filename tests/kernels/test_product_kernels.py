"""Which kernels a product needs, and that all of them are compiled before a server is ready."""

from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from aweigh_kernels import byte_schedule, tile_schedule
from aweigh_kernels.byte_schedule import Shape
from aweigh_kernels.gpus import Gpu
from aweigh_kernels.int_packing import Packed
from aweigh_kernels.product import KernelProduct, Kernels, compile_all
from tests.kernels.test_byte_schedule import GPUS
from tests.kernels.test_int_matmul_code import packed

MOST_TOKENS = 4096
MOST_KERNELS = 10  # of one matrix: each takes about a second before a server is ready
SIZES = [(6144, 4096), (28_672, 4096), (1000, 640)]


def kernels(product: str, chosen: Callable[[int], Hashable]) -> Kernels:
    return Kernels(product, cache(chosen), torch.empty(0, 8))


def expect_few(found: Kernels) -> None:
    assert len(found.counts(MOST_TOKENS)) <= MOST_KERNELS


@pytest.mark.parametrize("gpu", GPUS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_of_weights_of_8_bits_few_divisions_are_met(size: tuple[int, int], gpu: Gpu) -> None:
    for kind in (Shape(0, *size, 1), Shape(0, *size, 1, integers=True), Shape(0, *size, 2)):

        def chosen(tokens: int, kind: Shape = kind) -> Hashable:
            return byte_schedule.schedule(replace(kind, num_tokens=tokens), gpu)

        expect_few(kernels("", chosen))


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize(("bits", "group"), [(2, 128), (3, 64), (4, 128), (4, 32), (8, 1 << 20)])
def test_of_packed_integers_few_divisions_are_met(bits: int, group: int, architecture: int) -> None:
    for size in SIZES:
        weight = packed(bits, group, architecture, size)

        def chosen(tokens: int, weight: Packed = weight) -> Hashable:
            if tokens > tile_schedule.MOST_TOKENS:
                return None
            return tile_schedule.schedule(tokens, weight, 132).within(163 << 10, weight)

        expect_few(kernels("", chosen))


@given(some.lists(some.integers(1, 40), min_size=1, max_size=6), some.integers(1, 100))
def test_every_number_of_tokens_has_one_that_its_kernel_was_compiled_with(
    borders: list[int], most: int
) -> None:
    """Kernels that change anywhere, and come back."""

    def chosen(tokens: int) -> int:
        return sum(tokens > border for border in borders) % 3

    counts = kernels("", chosen).counts(most)
    assert len({chosen(count) for count in counts}) == len(counts)
    for tokens in range(1, most + 1):
        assert chosen(tokens) in {chosen(count) for count in counts if count <= tokens}


def test_each_kernel_computes_once_and_equal_products_are_one() -> None:
    called: list[tuple[str, list[int]]] = []

    def product(name: str, key: str, limit: int) -> KernelProduct:
        def multiply(x: torch.Tensor) -> torch.Tensor:
            called.append((name, list(x.shape)))
            return x

        return KernelProduct(multiply, kernels(key, lambda tokens: tokens > limit))

    others = [lambda x: pytest.fail("it is computed by no kernel of ours")]
    equal = [product("q", "small", 3), product("k", "small", 3)]
    compile_all([*equal, *others, product("v", "large", 9)], 8)
    assert called == [("k", [1, 8]), ("k", [4, 8]), ("v", [1, 8])]
