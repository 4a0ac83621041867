"""Runs benchmarks by their names; without a name all that this machine has what they need for.

    make bench [BENCH=NAME] [PEERS=FOLDER]
    python -m benchmarks [--list] [--peers FOLDER] [NAME …]

Each prints its figures, with the bars that it is held to. Where it keeps a result, that is written
to benchmarks/results. Products are also timed beside vLLM's where a folder has its libraries: see
`peers`; AWEIGH_PEERS names it, too. A script's name, as int_weight, is one of its benchmark.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
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
    takes_peers: bool = False


def _saved(name: str, *suffixes: str) -> tuple[str, ...]:
    """The options that write its result."""
    return tuple(f"--save=benchmarks/results/{name}{suffix}" for suffix in suffixes)


BENCHMARKS = {
    "common-attention": Benchmark(
        "paged_attention_gpu",
        "attention of decodes that begin alike",
        GPU,
        ("--common", *_saved("common-attention-gpu", ".md", ".json")),
    ),
    "decode-steps": Benchmark(
        "decode_steps_gpu",
        "decode steps of Llama 3.1 8B's shape",
        GPU,
        ("--starts=2", *_saved("decode-steps-gpu", ".md", ".json")),
    ),
    "decode-steps-fp8": Benchmark(
        "decode_steps_gpu",
        "the same with weights, keys and values of 8 bits",
        GPU,
        (
            "--quantization=fp8",
            "--kv-cache-dtype=fp8",
            *_saved("decode-steps-fp8-gpu", ".md", ".json"),
        ),
    ),
    "decode-steps-int4": Benchmark(
        "decode_steps_gpu",
        "the same with weights of 4 bits, and keys and values of 8",
        GPU,
        (
            "--quantization=int4",
            "--kv-cache-dtype=fp8",
            *_saved("decode-steps-int4-gpu", ".md", ".json"),
        ),
    ),
    "distill": Benchmark("distill_noisy", "what `aweigh distill` wins back of a ruined draft"),
    "experts": Benchmark(
        "experts_gpu",
        "layers of experts of Mixtral 8x7B's and Qwen3 30B-A3B's shapes",
        GPU,
        _saved("experts-gpu", ".md", ".json"),
    ),
    "few-bits": Benchmark(
        "int_weight_gpu",
        "products with weights of 2 and 3 bits",
        GPU,
        ("--bits", "2", "3", *_saved("few-bits-gpu", ".md", ".json")),
    ),
    "fp4-weight": Benchmark(
        "fp4_weight_gpu",
        "products with NVFP4 weights, and rounding to NVFP4",
        GPU,
        _saved("fp4-weight-gpu", ".md", ".json"),
    ),
    "fp8-weight": Benchmark(
        "fp8_weight_gpu",
        "products with FP8 weights, per channel, in blocks and alone",
        GPU,
        _saved("fp8-weight-gpu", ".md", ".json"),
        takes_peers=True,
    ),
    "fused-operations": Benchmark(
        "fused_operations_gpu",
        "norm, rotary embedding with the write into the cache, gates",
        GPU,
        _saved("fused-operations-gpu", ".md", ".json"),
    ),
    "gptq-peer": Benchmark("gptq_peer", "GPTQ of a matrix here and in llm-compressor", PEER),
    "int-divisions": Benchmark(
        "int_divisions_gpu",
        "divisions of products of many tokens with weights of 4 and 8 bits on Hopper",
        GPU,
        _saved("int-divisions-gpu", ".md", ".json"),
    ),
    "int-weight": Benchmark(
        "int_weight_gpu",
        "products with weights of 4 and 8 bits",
        GPU,
        _saved("int-weight-gpu", ".md", ".json"),
        takes_peers=True,
    ),
    "int-weight-cpu": Benchmark(
        "int_weight_cpu",
        "products with weights of 4 and 8 bits on a CPU",
        "",
        _saved("int-weight-cpu", ".md"),
    ),
    "int8-weight": Benchmark(
        "int8_weight_gpu",
        "products of integers of 8 bits",
        GPU,
        _saved("int8-weight-gpu", ".md", ".json"),
        takes_peers=True,
    ),
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
        _saved("paged-attention-gpu", ".md", ".json"),
    ),
    "prefill-attention": Benchmark(
        "prefill_attention_gpu",
        "attention of prompts",
        GPU,
        _saved("prefill-attention-gpu", ".md", ".json"),
    ),
    "quantize-layer": Benchmark("quantize_layer", "seconds to quantize a layer, per scheme"),
    "quantized-sizes": Benchmark("quantized_sizes", "bytes of a quantized layer, per scheme"),
    "router": Benchmark(
        "router",
        "a router's CPU, latency and memory; its choice of pods",
        "",
        _saved("router", ".md"),
    ),
    "run-ahead": Benchmark(
        "run_ahead_gpu",
        "steps that are launched before the last one is read",
        GPU,
        _saved("run-ahead-gpu", ".md", ".json"),
    ),
    "run-ahead-traffic": Benchmark(
        "run_ahead_gpu",
        "the same while prompts come in",
        GPU,
        ("--traffic", *_saved("run-ahead-traffic-gpu", ".md", ".json")),
    ),
    "sampling": Benchmark(
        "sampling_gpu", "choosing tokens", GPU, _saved("sampling-gpu", ".md", ".json")
    ),
    "skinny-matmul": Benchmark(
        "skinny_matmul_gpu",
        "products of few rows",
        GPU,
        _saved("skinny-matmul-gpu", ".md", ".json"),
    ),
    "sparse-int-weight": Benchmark(
        "sparse_int_weight_gpu",
        "products with 2:4 sparse weights of 4 and 8 bits",
        GPU,
        _saved("sparse-int-weight-gpu", ".md", ".json"),
    ),
}
PARTS = (
    "__main__",
    "byte_products",
    "int_peers",
    "layer_kernels",
    "peers",
    "product_report",
    "replays",
)  # what is no benchmark of its own


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--list", action="store_true", help="say what they measure and need")
    parser.add_argument(
        "--peers",
        metavar="FOLDER",
        default=os.environ.get("AWEIGH_PEERS"),
        help="of vLLM's libraries, *.so.xz",
    )
    arguments = parser.parse_args()
    names = list(map(_called, arguments.names))
    if unknown := sorted(set(names) - BENCHMARKS.keys()):
        parser.error(f"there is no benchmark {unknown[0]}; expected {', '.join(BENCHMARKS)}")
    if arguments.list:
        _list()
        return 0
    lacking = {name for name in names or BENCHMARKS if _lacks(BENCHMARKS[name])}
    for name in lacking:
        print(f"{name} needs {BENCHMARKS[name].needs}, which is not here")
    codes = [
        _run(name, BENCHMARKS[name], arguments.peers)
        for name in names or BENCHMARKS
        if name not in lacking
    ]
    return int(any(codes) or bool(names and lacking))


def _list() -> None:
    for name, benchmark in BENCHMARKS.items():
        needs = f"; needs {benchmark.needs}" if benchmark.needs else ""
        print(f"{name:20} {benchmark.measures}{needs}")


def _called(name: str) -> str:
    """A benchmark's own name, if it is called as its script is."""
    dashed = name.replace("_", "-")
    return dashed if dashed in BENCHMARKS else dashed.removesuffix("-gpu")


def _run(name: str, benchmark: Benchmark, peers: str | None) -> int:
    print(f"== {name}: {benchmark.measures}", flush=True)
    command = [sys.executable, "-m", f"benchmarks.{benchmark.module}", *benchmark.options]
    if benchmark.takes_peers and peers:
        command.append(f"--peers={peers}")
    return subprocess.run(command, cwd=FOLDER.parent, check=False).returncode


def _lacks(benchmark: Benchmark) -> bool:
    if benchmark.needs == GPU:
        import torch

        return not torch.cuda.is_available()
    if benchmark.needs == PEER:
        return importlib.util.find_spec("llmcompressor") is None
    return benchmark.needs == ROOT and os.geteuid() != 0


if __name__ == "__main__":
    sys.exit(main())
