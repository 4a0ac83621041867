"""The compressed-tensors library reads what we write, and we read what it writes."""

from typing import Any

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

from aweigh_runtime.formats import compressed_tensors
from aweigh_runtime.formats.layout import Layout
from tests.runtime.formats.stored import fields, read, same_bits, written

ROWS, COLUMNS = 96, 256
TOKEN = {"num_bits": 8, "strategy": "token", "dynamic": True}
TENSOR = {"num_bits": 8, "strategy": "tensor"}
FP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
FP4 |= {"scale_dtype": "torch.float8_e4m3fn", "zp_dtype": "torch.float8_e4m3fn"}


def _ints(bits: int, size: int | None, **more: Any) -> dict[str, Any]:
    if size is None:
        return {"num_bits": bits, "type": "int", "strategy": "channel"} | more
    return {"num_bits": bits, "type": "int", "strategy": "group", "group_size": size} | more


def _floats(strategy: str, **more: Any) -> dict[str, Any]:
    return {"num_bits": 8, "type": "float", "strategy": strategy} | more


BLOCKS = _floats("block", block_structure=[128, 128])
FLOAT_TOKEN = TOKEN | {"type": "float"}
FLOAT_TENSOR = TENSOR | {"type": "float"}
FLOAT_GROUP = _floats("group", group_size=128, dynamic=True)
SCHEMES: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None]] = {
    **{
        f"packed int{bits} {size} {'symmetric' if symmetric else 'zeros'}": (
            "pack-quantized", _ints(bits, size, symmetric=symmetric), None,
        )
        for bits in (2, 3, 4, 8)
        for size in (32, 128, None)
        for symmetric in (True, False)
    },
    "packed int4 tensor": ("pack-quantized", TENSOR | {"num_bits": 4}, None),
    "packed int3 tensor zeros": (
        "pack-quantized", TENSOR | {"num_bits": 3, "symmetric": False}, None,
    ),
    "packed int4 by weight": ("pack-quantized", _ints(4, 128, actorder="weight"), None),
    "int8 token": ("int-quantized", _ints(8, None), TOKEN),
    "int8 token zeros": ("int-quantized", _ints(8, None), TOKEN | {"symmetric": False}),
    "int8 static": ("int-quantized", _ints(8, None), TENSOR),
    "int8 static zeros": ("int-quantized", _ints(8, None), TENSOR | {"symmetric": False}),
    "int8 tensor": ("int-quantized", TENSOR, TOKEN),
    "int8 16 bit": ("int-quantized", _ints(8, None), None),
    "int8 naive zeros": ("naive-quantized", _ints(8, 64, symmetric=False), None),
    "int4 naive": ("naive-quantized", _ints(4, 64), None),
    "fp8 static": ("float-quantized", _floats("tensor"), FLOAT_TENSOR),
    "fp8 token": ("float-quantized", _floats("channel"), FLOAT_TOKEN),
    "fp8 block": ("float-quantized", BLOCKS, FLOAT_GROUP),
    "fp8 16 bit": ("naive-quantized", _floats("channel"), None),
    "nvfp4 16 bit": ("nvfp4-pack-quantized", FP4, None),
    "nvfp4": ("nvfp4-pack-quantized", FP4, FP4 | {"dynamic": "local"}),
}  # fmt: skip
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def _scheme(name: str) -> QuantizationScheme:
    _, weights, activations = SCHEMES[name]
    arguments = None if activations is None else QuantizationArgs(**activations)
    return QuantizationScheme(
        targets=["Linear"], weights=QuantizationArgs(**weights), input_activations=arguments
    )


def _layout(name: str) -> Layout:
    """As a checkpoint says it, in the library's own words."""
    group = _scheme(name).model_dump(mode="json")
    quantization = compressed_tensors.quantization(
        fields(format=SCHEMES[name][0], config_groups={"group_0": group}, ignore=["lm_head"])
    )
    layout = quantization.layout_of("model.layers.0.mlp.up_proj")
    assert layout is not None
    assert quantization.layout_of("lm_head") is None
    return layout


def _extremes(weight: torch.Tensor, args: QuantizationArgs) -> tuple[torch.Tensor, torch.Tensor]:
    match args.strategy:
        case "channel":
            groups = weight[:, None]
        case "block":
            assert args.block_structure is not None
            height, width = args.block_structure
            padded = torch.nn.functional.pad(weight, (0, -COLUMNS % width, 0, -ROWS % height))
            blocks = torch.unflatten(torch.unflatten(padded, 0, (-1, height)), 2, (-1, width))
            groups = blocks.transpose(1, 2).flatten(2)
        case "tensor":
            groups = weight.flatten()[None]
        case _:
            groups = torch.unflatten(weight, 1, (-1, args.group_size))
    return groups.amin(-1), groups.amax(-1)


def _compressed(name: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A random matrix, compressed by the library with scales by its own rule."""
    scheme = _scheme(name)
    args = scheme.weights
    assert args is not None
    weight = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(7)).to(dtype)
    extremes = _extremes(weight, args)
    state = {"weight": weight}
    if args.strategy == "tensor_group":
        state["weight_global_scale"] = generate_gparam(weight.min(), weight.max())
    scale, zero = calculate_qparams(*extremes, args, state.get("weight_global_scale"))
    state |= {"weight_scale": scale, "weight_zero_point": zero}
    activations = scheme.input_activations
    if activations is not None and activations.dynamic is False:
        state["input_scale"] = torch.tensor([0.037], dtype=dtype)
        state["input_zero_point"] = torch.tensor([-9], dtype=torch.int8)
    if activations is not None and activations.dynamic == "local":
        state["input_global_scale"] = torch.tensor([311.0])
    compressor = BaseCompressor.get_value_from_registry(SCHEMES[name][0])
    compressed: dict[str, torch.Tensor] = compressor.compress(state, scheme)
    return compressed


def _decompressed(name: str, state: dict[str, torch.Tensor]) -> torch.Tensor:
    compressor = BaseCompressor.get_value_from_registry(SCHEMES[name][0])
    weight: torch.Tensor = compressor.decompress(state, _scheme(name))["weight"]
    return weight


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SCHEMES)
def test_the_librarys_files_mean_the_same_to_the_last_bit(name: str, dtype: torch.dtype) -> None:
    state = _compressed(name, dtype)
    weight = read(_layout(name), state, ROWS, COLUMNS)
    theirs = _decompressed(name, state)

    assert torch.count_nonzero(theirs) > 0.3 * theirs.numel()
    assert torch.equal(weight.dense(theirs.dtype), theirs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SCHEMES)
def test_the_library_reads_our_files_to_the_last_bit(name: str, dtype: torch.dtype) -> None:
    layout = _layout(name)
    theirs = _compressed(name, dtype)
    ours = written(layout, read(layout, theirs, ROWS, COLUMNS))

    assert set(ours) == set(theirs)
    assert torch.equal(_decompressed(name, ours), _decompressed(name, theirs))
    for part, tensor in ours.items():
        same = tensor.to(theirs[part].dtype) if part.startswith("input_") else tensor
        assert same_bits(same.reshape(theirs[part].shape), theirs[part]), part


def test_the_library_chooses_the_formats_that_we_infer() -> None:
    for name, (stored_as, _, _) in SCHEMES.items():
        if stored_as == "naive-quantized" or name == "int8 16 bit":
            continue
        group = _scheme(name).model_dump(mode="json")
        found = compressed_tensors.quantization(fields(config_groups={"group_0": group}))
        assert found.layout_of("up_proj") == _layout(name), name
