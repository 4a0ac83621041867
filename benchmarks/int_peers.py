"""Marlin and Machete of vLLM, measured beside ours with random weights; `peers` loads them."""

import torch

from benchmarks.replays import Way

GROUP = 128


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

    def way(which: int) -> object:
        return torch.ops._C.marlin_gemm(
            x, None, weights[which % sets], None, scales, None, None, None, None, None, locks,
            kind, tokens, num_rows, columns, True, False, True, False,
        )  # fmt: skip

    return way


def _machete(x: torch.Tensor, num_rows: int, sets: int) -> Way:
    columns, kind = x.shape[1], _biased(4)
    weights = [
        torch.ops._C.machete_prepack_B(
            _random_words(num_rows, columns // 8).t(), x.dtype, kind, x.dtype
        )
        for _ in range(sets)
    ]
    scales = torch.rand(columns // GROUP, num_rows, device="cuda", dtype=x.dtype) / 100

    def way(which: int) -> object:
        return torch.ops._C.machete_mm(
            x, weights[which % sets], kind, None, scales, None, GROUP, None, None, None
        )

    return way


def _biased(bits: int) -> int:
    """vLLM's number for unsigned integers less half of what there are."""
    return (bits << 8) | (1 << (bits - 1) << 17) | (1 << 50)


def _random_words(*shape: int) -> torch.Tensor:
    return torch.randint(-(1 << 31), 1 << 31, shape, dtype=torch.int32, device="cuda")
