"""Attention of prompts on a GPU: our kernels over blocks beside torch's over contiguous tensors.

    python -m benchmarks.prefill_attention_gpu [--save FILE.md] [--save FILE.json]

Layers of Llama 3.1 8B: 32 heads, 8 of keys, of 128 numbers, bf16, random; blocks of 16 that lie
anywhere. Operands rotate through cold memory; calls are replayed from a CUDA graph, in turns that
reverse, after all gave the same numbers. Operations that are counted: 4 · 32 · 128 for each
pair of a token and a position that it sees. The bound: 790 TFLOP/s, what products of large
matrices of random numbers reach on an H200.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from aweigh_bench.report import Bar, Cell, Report, Table
from aweigh_kernels import prefill_attention_gpu
from aweigh_kernels.prefill_attention_gpu import Tiles, attend, tile_tokens
from benchmarks.replays import described, interleaved, num_sets

HEADS, KV_HEADS, SIZE, BLOCK = 32, 8, 128, 16
SCALE = SIZE**-0.5
BOUND_FLOP_PER_S = 790e12
CASES = [  # requests, cached positions, new tokens of each
    *((1, 0, length) for length in (512, 2048, 8192, 32_768)),
    *((8, 0, 512), (8, 0, 2048), (64, 0, 128), (2, 6144, 2048), (1, 30_720, 2048)),
]
LEAST = {(1, 0, 2048): 430.0, (1, 0, 8192): 520.0}  # TFLOP/s
COLUMNS = (
    "requests, cached, new", "us", "p10", "p90", "ours", "of the bound", "Triton", "torch: flash",
    "cuDNN",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, action="append", default=[])
    given = parser.parse_args()
    rows: list[tuple[Cell, ...]] = []
    for case in CASES:
        rows.append(_row(*case))
        print(*rows[-1], flush=True)
    report = Report(
        title="Attention of prompts on a GPU",
        command=f"python -m benchmarks.prefill_attention_gpu {shlex.join(sys.argv[1:])}".strip(),
        model="layers of Llama 3.1 8B, random numbers",
        machine=described(),
        tables=[Table("TFLOP/s, but for the time of ours, median of 24 replays", COLUMNS, rows)],
        bars=list(bars_of(rows)),
        notes=["Triton: our kernel for GPUs other than Hopper."],
    )
    print(report.text())
    for path in given.save:
        report.save(path)


def bars_of(rows: Sequence[Sequence[Cell]]) -> Iterator[Bar]:
    """What one prompt alone is held to."""
    found = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in rows}
    for case, least in LEAST.items():
        speed = found[_name(*case)]["ours"]
        assert isinstance(speed, float)
        yield Bar(_name(*case), f"≥ {least:g} TFLOP/s", f"{speed:.0f}", speed >= least)


def _name(batch: int, cached: int, new: int) -> str:
    return f"{batch}, {cached:,}, {new:,}"


def _row(batch: int, cached: int, new: int) -> tuple[Cell, ...]:
    generator = torch.Generator(device="cuda").manual_seed(batch)
    each = -(-(cached + new) // BLOCK)
    num_bytes = 2 * SIZE * batch * (each * BLOCK * 2 * KV_HEADS + new * HEADS)
    count = num_sets(num_bytes)
    kv_shape = (batch * each, BLOCK, 2 * KV_HEADS, SIZE)
    sets = [
        (_random((batch * new, HEADS, SIZE), generator), _random(kv_shape, generator))
        for _ in range(count)
    ]
    table = np.random.default_rng(batch).permutation(batch * each).reshape(batch, each)
    rows = ([place * new for place in range(batch)], [new] * batch, [cached] * batch)
    tiles = Tiles.of(rows, table, tile_tokens(*sets[0]), None, torch.device("cuda"))
    output = torch.empty_like(sets[0][0])
    blocks = torch.from_numpy(table).cuda()
    unpaged = [_contiguous(*operands, blocks) for operands in sets]

    def ours(which: int) -> torch.Tensor:
        attend(*sets[which], tiles, SCALE, output)
        return output

    def by_triton(which: int) -> torch.Tensor:
        query, kv = sets[which]
        prefill_attention_gpu._launch(query, kv, tiles, output, SCALE, 1.0, None)
        return output

    def by_torch(backend: SDPBackend) -> Callable[[int], torch.Tensor]:
        def call(which: int) -> torch.Tensor:
            query, keys, values = unpaged[which]
            with sdpa_kernel(backend):
                found = scaled_dot_product_attention(
                    query, keys, values, is_causal=True, scale=SCALE
                )
            return found.transpose(1, 2)

        return call

    calls: list[Callable[[int], torch.Tensor]] = [ours, by_triton]
    if cached == 0:  # torch's causal mask begins at the first position
        calls += map(by_torch, (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION))
    wanted = ours(0).clone()
    for call in calls[1:]:
        torch.testing.assert_close(call(0).reshape(wanted.shape), wanted, atol=2e-2, rtol=2e-2)
    times = interleaved(calls, count)
    pairs = batch * (new * cached + new * (new + 1) // 2)
    speeds = [4 * HEADS * SIZE * pairs / (each.median * 1e6) for each in times]
    absent = [None] * (4 - len(speeds))
    return (
        _name(batch, cached, new), times[0].median, times[0].p10, times[0].p90, speeds[0],
        speeds[0] * 1e12 / BOUND_FLOP_PER_S, *speeds[1:], *absent,
    )  # fmt: skip


def _random(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, device="cuda", generator=generator, dtype=torch.bfloat16)


def _contiguous(
    query: torch.Tensor, kv: torch.Tensor, blocks: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """[batch, H, positions, D] each: torch's cuDNN takes no shared heads of keys."""
    batch = len(blocks)
    held = kv[blocks.flatten()].view(batch, -1, 2 * KV_HEADS, SIZE)
    keys, values = held.repeat_interleave(HEADS // KV_HEADS, 2).transpose(1, 2).chunk(2, 1)
    own = query.view(batch, -1, HEADS, SIZE).transpose(1, 2)
    return own.contiguous(), keys.contiguous(), values.contiguous()


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("this measures a GPU, and none is visible")
    main()
