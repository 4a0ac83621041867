"""By how much the linear layers of a Llama 3.1 8B shrink, per scheme, in the files as written.

    python benchmarks/quantized_sizes.py [--schemes rtn-4,fp8] [--save FILE.md]

One decoder layer of that shape, with random weights, is written as `aweigh quantize` writes it, and
the bytes of its tensors are read from the headers of the files. All 32 layers have the same shape.
Weights are rounded to the nearest: how they are chosen changes no size.
"""

import argparse
import json
import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from aweigh_bench import machine
from aweigh_bench.report import Bar, Cell, Report, Table
from aweigh_quantize.checkpoint import Checkpoint, read_checkpoint
from aweigh_quantize.declaration import declare
from aweigh_quantize.job import precisions_of
from aweigh_quantize.methods.inputs import Inputs
from aweigh_quantize.one_layer import OneLayer
from aweigh_quantize.result import write_result
from aweigh_quantize.schemes import quantized
from aweigh_quantize.spelling import recipe_of
from aweigh_quantize.tensor_file import entry, write_tensors
from aweigh_runtime.model.shards import stored_tensors

NUM_LAYERS = 32
SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "vocab_size": 64,  # of the real 128,256: no linear layer of a decoder layer
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 1,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "tie_word_embeddings": True,
}
LEAST = {"rtn-4": 3.8, "rtn-2": 7.0, "rtn-4-2:4": 5.0}  # times smaller than bf16
SCHEMES = (
    "int8,rtn-8-channel,rtn-4,rtn-4-g32,rtn-4-asym,awq,rtn-3,rtn-2,rtn-4-2:4,fp8,fp8-block,nvfp4"
)
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Size:
    """Of the linear layers of one decoder layer."""

    scheme: str
    layout: str
    dense: int  # bytes
    written: int
    num_weights: int

    @property
    def ratio(self) -> float:
        return self.dense / self.written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schemes", default=SCHEMES)
    parser.add_argument("--save", type=Path, action="append", default=[])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aweigh-bench-") as folder:
        checkpoint = write_layer(Path(folder) / "dense", SHAPE)
        sizes = []
        for scheme in given.schemes.split(","):
            sizes.append(size(checkpoint, scheme, Path(folder) / "out"))
            print(f"{scheme}: {sizes[-1].ratio:.2f}", file=sys.stderr, flush=True)
    found = report(sizes)
    print(found.text())
    for path in given.save:
        found.save(path)


def write_layer(folder: Path, shape: dict[str, object]) -> Checkpoint:
    """A model of one decoder layer with random weights, in bf16."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(shape))
    hidden, inner, vocabulary = (
        int(str(shape[name])) for name in ("hidden_size", "intermediate_size", "vocab_size")
    )
    head = int(str(shape["head_dim"]))
    queries = int(str(shape["num_attention_heads"])) * head
    keys = int(str(shape["num_key_value_heads"])) * head
    layer = "model.layers.0"
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        f"{layer}.input_layernorm.weight": (hidden,),
        f"{layer}.self_attn.q_proj.weight": (queries, hidden),
        f"{layer}.self_attn.k_proj.weight": (keys, hidden),
        f"{layer}.self_attn.v_proj.weight": (keys, hidden),
        f"{layer}.self_attn.o_proj.weight": (hidden, queries),
        f"{layer}.post_attention_layernorm.weight": (hidden,),
        f"{layer}.mlp.gate_proj.weight": (inner, hidden),
        f"{layer}.mlp.up_proj.weight": (inner, hidden),
        f"{layer}.mlp.down_proj.weight": (hidden, inner),
        "model.norm.weight": (hidden,),
    }
    generator = torch.Generator().manual_seed(0)
    entries = []
    for name, each in shapes.items():
        values = torch.randn(each, generator=generator).mul_(0.02).to(torch.bfloat16)
        entries.append(entry(name, values))
    write_tensors(folder / "model.safetensors", entries)
    return read_checkpoint(folder)


def size(checkpoint: Checkpoint, scheme: str, out: Path) -> Size:
    """Write it in a scheme, and look at what was written."""
    recipe = recipe_of(scheme)
    precisions = precisions_of(checkpoint, recipe)
    declared = declare(recipe, precisions)
    layer = OneLayer(checkpoint, 0, CPU)
    for matrix in layer.matrices:
        unseen = Inputs(matrix.shape[1])  # of too few tokens to count
        layer.put(matrix, quantized(recipe, recipe.precision, matrix.values, unseen))
    path = out.with_name("layer.safetensors")
    tensors = layer.tensors(declared.quantization)
    write_tensors(path, [entry(*each) for each in tensors.items()])
    write_result(out, checkpoint, [path], declared.config)
    modules = tuple(f"{module}." for module in precisions)
    before, after = (
        sum(each.num_bytes for name, each in stored.items() if name.startswith(modules))
        for stored in (stored_tensors(checkpoint.directory), stored_tensors(out))
    )
    num_weights = sum(each.shape[0] * each.shape[1] for each in layer.matrices)
    return Size(scheme, declared.quantization.description, before, after, num_weights)


def report(sizes: list[Size]) -> Report:
    rows: list[tuple[Cell, ...]] = []
    for each in sizes:
        whole = NUM_LAYERS * each.written / 1e9
        bits = 8 * each.written / each.num_weights
        rows.append((each.scheme, each.layout, f"{bits:.3f}", f"{whole:.2f}", f"{each.ratio:.2f}"))
    dense = NUM_LAYERS * sizes[0].dense / 1e9
    bars = [
        Bar(
            f"{each.scheme}: linear layers smaller than in bf16",
            f">= {LEAST[each.scheme]:g} x",
            f"{each.ratio:.2f} x",
            each.ratio >= LEAST[each.scheme],
        )
        for each in sizes
        if each.scheme in LEAST
    ]
    columns = ("scheme", "layout", "bits per weight", "GB", "times smaller")
    return Report(
        title="Sizes of quantized linear layers",
        command=f"python {shlex.join(sys.argv)}",
        model="the shape of Llama 3.1 8B, random weights",
        machine=machine.describe(),
        tables=[Table("Linear layers in the written files", columns, rows)],
        bars=bars,
        notes=[
            f"GB: of {NUM_LAYERS} decoder layers, scales and indices included; {dense:.2f} in "
            "bf16. Embedding, head and norms stay dense and are not counted. gptq writes the same "
            "files as rtn."
        ],
    )


if __name__ == "__main__":
    main()
