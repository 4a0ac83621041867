"""Writes data/*.safetensors with the packers that made the formats common. No test runs this.

    python -m venv packers && . packers/bin/activate
    pip install torch==2.11.0 numpy setuptools wheel safetensors transformers==4.51.3 \
        datasets==3.6.0 peft==0.15.2 accelerate==1.6.0 py-cpuinfo gekko rouge sentencepiece \
        auto-round==0.16.1
    BUILD_CUDA_EXT=0 pip install --no-build-isolation --no-deps auto-gptq==0.7.1 autoawq==0.2.9
    pip install --no-deps compressed-tensors==0.9.4
    python -m tests.runtime.formats.packed_elsewhere

AutoGPTQ writes GPTQ's version 1, auto-round version 2, AutoAWQ gemm, compressed-tensors Marlin-24.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.runtime.formats import known

DATA = Path(__file__).parent / "data"
ROWS, COLUMNS = 32, 128
MARLIN_ROWS, MARLIN_COLUMNS = 64, 384
WIDTHS = (2, 3, 4, 8)
GROUPS = {2: 32, 3: 64, 4: 32, 8: 128}


def main() -> None:
    """Write all three files."""
    DATA.mkdir(exist_ok=True)
    save_file(_gptq(), DATA / "gptq.safetensors")
    save_file(_awq(), DATA / "awq.safetensors")
    save_file(_marlin24(), DATA / "marlin24.safetensors")


def _gptq() -> dict[str, torch.Tensor]:
    first = import_module("auto_gptq.nn_modules.qlinear.qlinear_cuda").QuantLinear
    second = import_module("auto_round_extension.torch.qlinear_torch").QuantLinear
    found: dict[str, torch.Tensor] = {}
    for bits in WIDTHS:
        group = GROUPS[bits]
        in_order = torch.arange(COLUMNS) // group
        for symmetric in (True, False):
            kind = "symmetric" if symmetric else "asymmetric"
            for version, packer in ((1, first), (2, second)):
                packed = _gptq_layer(packer, bits, symmetric, in_order)
                found |= {f"v{version}.{kind}.{bits}.{name}": packed[name] for name in packed}
        if group < COLUMNS:
            packed = _gptq_layer(first, bits, False, known.group_of(COLUMNS, group))
            found |= {f"v1.act_order.{bits}.{name}": packed[name] for name in packed}
    return found


def _gptq_layer(
    packer: Any, bits: int, symmetric: bool, group_of: torch.Tensor
) -> dict[str, torch.Tensor]:
    group = GROUPS[bits]
    layer = packer(bits, group, COLUMNS, ROWS, False, weight_dtype=torch.float32)
    scale = known.scales(ROWS, COLUMNS // group).float()
    zero = known.zeros(ROWS, COLUMNS // group, bits)
    if symmetric:
        zero = torch.full_like(zero, 1 << (bits - 1))
    values = known.integers(ROWS, COLUMNS, bits) - zero[:, group_of]
    layer.device = "cpu"
    layer.pack(_linear(values * scale[:, group_of]), scale, zero.float(), group_of.int())
    names = [name for name in ("qweight", "qzeros", "scales", "g_idx") if hasattr(layer, name)]
    found = {name: getattr(layer, name).contiguous() for name in names}
    return found | {"scales": found["scales"].half()}  # AutoGPTQ computes in the weight's format


def _awq() -> dict[str, torch.Tensor]:
    packer = import_module("awq.modules.linear.gemm").WQLinear_GEMM
    group = GROUPS[4]
    scale = known.scales(ROWS, COLUMNS // group).float()
    zero = known.zeros(ROWS, COLUMNS // group, 4)
    values = known.integers(ROWS, COLUMNS, 4) - zero.repeat_interleave(group, 1)
    linear = _linear(values * scale.repeat_interleave(group, 1))
    layer = packer.from_linear(
        linear, 4, group, scales=scale.t().contiguous(), zeros=zero.t().contiguous()
    )
    return {name: getattr(layer, name) for name in ("qweight", "qzeros", "scales")}


def _marlin24() -> dict[str, torch.Tensor]:
    package = "compressed_tensors.compressors.sparse_quantized_compressors.marlin_24"
    arguments = import_module("compressed_tensors.quantization").QuantizationArgs
    compressor = import_module(package).Marlin24Compressor()
    found: dict[str, torch.Tensor] = {}
    for bits, group in ((4, 128), (4, None), (8, None)):
        columns = MARLIN_COLUMNS if group else 64
        scale = known.scales(MARLIN_ROWS, columns // group if group else 1)
        index = known.places(MARLIN_ROWS, columns)
        q = known.kept(MARLIN_ROWS, columns, bits) - (1 << (bits - 1))
        fours = torch.zeros(MARLIN_ROWS, columns // 4, 4).scatter_(
            2, torch.unflatten(index, 1, (-1, 2)), torch.unflatten(q.float(), 1, (-1, 2))
        )
        dense = fours.flatten(1) * scale.repeat_interleave(group or columns, 1)
        scheme = arguments(
            num_bits=bits, strategy="group" if group else "channel", group_size=group
        )
        state = {
            "m.weight": dense,
            "m.weight_scale": scale,
            "m.weight_zero_point": torch.zeros_like(scale, dtype=torch.int8),
        }
        packed = compressor.compress(state, {"m": scheme})
        kind = f"{bits}.{'groups' if group else 'channel'}"
        found |= {f"{kind}.{name[2:]}": packed[name].contiguous() for name in packed}
    return found


def _linear(weight: torch.Tensor) -> torch.nn.Linear:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight.float()
    return layer


if __name__ == "__main__":
    main()
