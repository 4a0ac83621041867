"""Marlin and Machete of vLLM, measured beside ours with random weights; `peers` loads them.

Each has an order of its own for weights, which nobody makes here. So before they are timed, each
multiplies with a matrix of ones, which is the same in any order.
"""

from collections.abc import Callable

import torch

from benchmarks.replays import Way

GROUP = 128
_SCALE = 2**-7  # of the ones


def ways(x: torch.Tensor, num_rows: int, bits: int, sets: int) -> dict[str, Way]:
    """Products of those that are loaded.

    Args:
        x: [T, K], bf16.
        num_rows: N.
        bits: of a weight; they have 4 and 8.
        sets: of weights.
    """
    found: dict[str, Way] = {}
    if bits in (4, 8) and hasattr(torch.ops._C, "marlin_gemm"):
        found["Marlin"] = _marlin(x, num_rows, bits, sets)
    if bits == 4 and hasattr(torch.ops._C, "machete_mm"):
        found["Machete"] = _machete(x, num_rows, sets)
    return found


def _marlin(x: torch.Tensor, num_rows: int, bits: int, sets: int) -> Way:
    (tokens, columns), kind = x.shape, _biased(bits)
    weights = [_random_words(columns // 16, num_rows * bits // 2) for _ in range(sets)]
    scales = torch.rand(columns // GROUP, num_rows, device="cuda", dtype=x.dtype) / 100
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count
    locks = torch.zeros(4 * processors, dtype=torch.int32, device="cuda")

    def multiply(words: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.ops._C.marlin_gemm(
            x, None, words, None, scales, None, None, None, None, None, locks,
            kind, tokens, num_rows, columns, True, False, True, False,
        )  # fmt: skip
        return found

    expect_right(multiply, x, _ones(weights[0].shape, bits), scales)
    return lambda which: multiply(weights[which % sets], scales)


def _machete(x: torch.Tensor, num_rows: int, sets: int) -> Way:
    columns, kind = x.shape[1], _biased(4)
    shape = (num_rows, columns // 8)

    def packed(words: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.ops._C.machete_prepack_B(words.t(), x.dtype, kind, x.dtype)
        return found

    def multiply(words: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.ops._C.machete_mm(
            x, words, kind, None, scales, None, GROUP, None, None, None
        )
        return found

    weights = [packed(_random_words(*shape)) for _ in range(sets)]
    scales = torch.rand(columns // GROUP, num_rows, device="cuda", dtype=x.dtype) / 100
    expect_right(multiply, x, packed(_ones(shape, 4)), scales)
    return lambda which: multiply(weights[which % sets], scales)


def expect_right(
    multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    ones: torch.Tensor,
    scales: torch.Tensor,
) -> None:
    """Sums of the rows of x are what a matrix of ones gives.

    Args:
        multiply: x with packed weights and scales.
        x: [T, K].
        ones: packed.
        scales: of any weight, [K / GROUP, N].
    """
    found = multiply(ones, torch.full_like(scales, _SCALE)).float()
    wanted = (_SCALE * x.float().sum(-1, keepdim=True)).expand(-1, scales.shape[1])
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2)


def _ones(shape: tuple[int, ...], bits: int) -> torch.Tensor:
    """Half of what there are, and one, in all places."""
    word = sum(((1 << (bits - 1)) + 1) << place for place in range(0, 32, bits))
    return torch.full(shape, word - (1 << 32), dtype=torch.int32, device="cuda")


def _biased(bits: int) -> int:
    """vLLM's number for unsigned integers less half of what there are."""
    return (bits << 8) | (1 << (bits - 1) << 17) | (1 << 50)


def _random_words(*shape: int) -> torch.Tensor:
    return torch.randint(-(1 << 31), 1 << 31, shape, dtype=torch.int32, device="cuda")
