"""How long GPTQ takes here and in llm-compressor: the same matrix, Hessian and settings.

    python -m venv peer
    peer/bin/pip install --editable '.[runtime]' 'llmcompressor==0.14.*'
    peer/bin/python -m benchmarks.gptq_peer [--device cpu] [--shape 1024x3584] [--pairs 6]

llm-compressor stands beside Aweigh in an environment of its own, because it pins what it needs.
Both quantize to symmetric 4 bits in groups of 128 with scales from the largest weight of a group,
columns in the order of their importance, errors carried on in blocks of 128 columns, and the same
damping: the paper's algorithm, without what Aweigh adds to it. A last row has that, too. The two
take turns, each on its own copy of the Hessian. On a CPU processor seconds are compared, which
other programs change least; on a GPU seconds.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import torch

from aweigh_bench import machine
from aweigh_bench.bars import at_most
from aweigh_bench.paired import CONFIDENCE, Comparison, compare
from aweigh_bench.report import Bar, Cell, Report, Table
from aweigh_kernels.int_weight import IntWeight
from aweigh_quantize.methods import gptq, rtn
from aweigh_quantize.methods.grid import Grid
from aweigh_quantize.methods.inputs import Inputs
from benchmarks.quantize_layer import matrix

TOKENS = 2048
BITS, GROUP, BLOCK, DAMPING = 4, 128, 128, 0.01
MOST = 1.2  # times what llm-compressor takes
GRID = Grid(bits=BITS, group=GROUP)
PAPER = gptq.Options(damping=DAMPING, clip="none", sweeps=0, block=BLOCK)
SHAPES = ("1024x3584", "4096x14336")  # rows x columns; the second: `down` of Llama 3.1 8B

PEER, SAME, WHOLE = "llm-compressor", "Aweigh, the same algorithm", "Aweigh, as it quantizes"

Quantize = Callable[[torch.Tensor, Inputs], torch.Tensor]
"""[N, K] and its inputs to the quantized values [N, K]."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shape", action="append", help="rows x columns; repeatable")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--save", type=Path, action="append", default=[])
    given = parser.parse_args()
    theirs = peer()
    device = torch.device(given.device)
    rows: list[tuple[Cell, ...]] = []
    bars = []
    for shape in given.shape or SHAPES:
        num_rows, num_columns = map(int, shape.split("x"))
        weight, inputs = matrix(num_rows, num_columns, device, TOKENS)
        ways = {PEER: theirs, SAME: ours(PAPER), WHOLE: ours(gptq.Options())}
        seconds = timings(ways, weight, inputs, given.pairs)
        nearest = loss(rtn.quantize(weight, GRID).dense(), weight, inputs)
        for name, way in ways.items():
            error = (loss(way(weight, inputs), weight, inputs) / nearest) ** 0.5
            share = compare([a / b for a, b in zip(seconds[name], seconds[PEER], strict=True)])
            rows.append((f"{shape}, {name}", median(seconds[name]), share.ratio, f"{error:.3f}"))
        ratio = compare([a / b for a, b in zip(seconds[SAME], seconds[PEER], strict=True)])
        what = f"{shape}: Aweigh's time, of llm-compressor's"
        bars.append(Bar(what, f"<= {MOST:g} x", str(ratio), met(ratio)))
    report = Report(
        title="GPTQ beside llm-compressor",
        command=f"python -m benchmarks.gptq_peer {shlex.join(sys.argv[1:])}",
        model="random matrices",
        machine=machine.describe() | {"llmcompressor": metadata.version("llmcompressor")},
        tables=[Table("One matrix", ("way", "seconds", "of the first", "error"), rows)],
        bars=bars,
        notes=[
            f"{BITS} bits, groups of {GROUP}, symmetric, act order with groups as they lie, "
            f"damping {DAMPING:g}; medians of {given.pairs} interleaved runs. "
            f"{'Processor seconds' if device.type == 'cpu' else 'Seconds'}, "
            f"{torch.get_num_threads()} thread of torch.",
            "Error: sqrt of tr(E H Eᵀ) of the quantized weights, divided by that of rounding "
            "to the nearest.",
        ],
    )
    print(report.text())
    for path in given.save:
        report.save(path)


def peer() -> Quantize:
    """llm-compressor's GPTQ, as its modifier calls it for one matrix."""
    try:
        from compressed_tensors.quantization import QuantizationArgs
        from compressed_tensors.quantization.utils import calculate_qparams
        from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight
    except ImportError as error:
        sys.exit(
            f"{error}; expected an environment that has llm-compressor, too:\n"
            "python -m venv peer\n"
            "peer/bin/pip install --editable '.[runtime]' 'llmcompressor==0.14.*'\n"
            "peer/bin/python -m benchmarks.gptq_peer"
        )
    wanted: Any = QuantizationArgs(
        num_bits=BITS,
        type="int",
        symmetric=True,
        strategy="group",
        group_size=GROUP,
        actorder="weight",
    )

    def quantize(weight: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        groups = torch.unflatten(weight, 1, (-1, GROUP))
        scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), wanted)
        # It works in the tensors that it is given.
        found, _, fell_back = quantize_weight(
            weight.clone()[None],
            inputs.hessian.clone()[None],
            scale[None],
            zero[None],
            None,
            wanted,
            blocksize=BLOCK,
            percdamp=DAMPING,
        )
        assert not fell_back.any()
        first: torch.Tensor = found[0]
        return first

    return quantize


def ours(options: gptq.Options) -> Quantize:
    def quantize(weight: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        found: IntWeight = gptq.quantize(weight, inputs, GRID, options)
        return found.dense()

    return quantize


def timings(
    ways: dict[str, Quantize], weight: torch.Tensor, inputs: Inputs, count: int
) -> dict[str, list[float]]:
    """Seconds of each; who goes first alternates."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(count):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            found[name].append(timed(ways[name], weight, inputs))
            print(f"{name}: {found[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return found


def timed(way: Quantize, weight: torch.Tensor, inputs: Inputs) -> float:
    on_cpu = weight.device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    started = clock()
    way(weight, inputs)
    if not on_cpu:
        torch.cuda.synchronize()
    return clock() - started


def loss(found: torch.Tensor, weight: torch.Tensor, inputs: Inputs) -> float:
    """tr(E H Eᵀ)."""
    error = found - weight
    return float(((error @ inputs.hessian) * error).sum(dtype=torch.float64))


def met(ratio: Comparison) -> bool | None:
    """None: the interval cannot tell, or there are too few pairs for one."""
    return None if ratio.confidence < CONFIDENCE else at_most(ratio.low, ratio.high, MOST)


if __name__ == "__main__":
    main()
