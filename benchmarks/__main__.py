"""Runs a benchmark by its name; without a name, says which there are and what they need.

    make bench [BENCH=NAME]
    python -m benchmarks [NAME …]

Each prints its figures, with the bars that it is held to. Where it keeps a result, that is written
to benchmarks/results. The name `all` stands for all of them, one after the other.
"""

import argparse
import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
ALL = "all"
GPU = "a CUDA GPU"
PEER = "llm-compressor, in an environment of its own"
ROOT = "root, for a network of its own"


@dataclass(frozen=True)
class Benchmark:
    """One of them."""

    module: str  # in this folder
    measures: str
    needs: str = ""
    options: tuple[str, ...] = ()


def _saved(name: str, *suffixes: str) -> tuple[str, ...]:
    """The options that write its result."""
    return tuple(f"--save=benchmarks/results/{name}{suffix}" for suffix in suffixes)


BENCHMARKS = {
    "distill": Benchmark("distill_noisy", "what `aweigh distill` wins back of a ruined draft"),
    "fused-operations": Benchmark(
        "fused_operations_gpu",
        "norm, rotary embedding with the write into the cache, gates",
        GPU,
        _saved("fused-operations-gpu", ".md", ".json"),
    ),
    "gptq-peer": Benchmark("gptq_peer", "GPTQ of a matrix here and in llm-compressor", PEER),
    "mixed-precision": Benchmark(
        "mixed_precision", "`aweigh quantize --budget` against other choices of the same size"
    ),
    "operator": Benchmark(
        "operator_scale",
        "the operator with 1,000 InferenceServices",
        ROOT,
        _saved("operator-scale", ".md", ".json"),
    ),
    "paged-attention": Benchmark("paged_attention", "attention of decodes on a CPU"),
    "paged-attention-gpu": Benchmark(
        "paged_attention_gpu",
        "attention of decodes on a GPU",
        GPU,
        _saved("paged-attention-gpu", ".md"),
    ),
    "quantize-layer": Benchmark("quantize_layer", "seconds to quantize a layer, per scheme"),
    "quantized-sizes": Benchmark("quantized_sizes", "bytes of a quantized layer, per scheme"),
    "skinny-matmul": Benchmark(
        "skinny_matmul_gpu",
        "products of few rows",
        GPU,
        _saved("skinny-matmul-gpu", ".md", ".json"),
    ),
}
PARTS = ("__main__", "replays")  # what is no benchmark of its own


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    names = parser.parse_args().names
    if unknown := sorted(set(names) - {ALL, *BENCHMARKS}):
        parser.error(f"there is no benchmark {unknown[0]}; expected {', '.join(BENCHMARKS)}")
    if not names:
        _list()
        return 0
    chosen = list(BENCHMARKS) if ALL in names else names
    return max(_run(name, BENCHMARKS[name]) for name in chosen)


def _list() -> None:
    for name, benchmark in BENCHMARKS.items():
        needs = f"; needs {benchmark.needs}" if benchmark.needs else ""
        print(f"{name:20} {benchmark.measures}{needs}")


def _run(name: str, benchmark: Benchmark) -> int:
    print(f"== {name}: {benchmark.measures}", flush=True)
    if (benchmark.needs == GPU and not _has_gpu()) or (
        benchmark.needs == PEER and importlib.util.find_spec("llmcompressor") is None
    ):
        print(f"{name} needs {benchmark.needs}, which is not here", flush=True)
        return 1
    command = [sys.executable, "-m", f"benchmarks.{benchmark.module}", *benchmark.options]
    return subprocess.run(command, cwd=FOLDER.parent, check=False).returncode


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main())
