"""Which number format a model computes in. It never changes what a user asked for."""

from collections.abc import Mapping

import torch

from aweigh_api.spec import DTypeName

STORED = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
NAMED = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# Instruction sets, as torch names them, with which a CPU multiplies such matrices itself.
NATIVE_ON_CPU = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16", "fp16"),
    torch.float32: (),
}


def compute_dtype(wanted: DTypeName, checkpoint: torch.dtype, device: torch.device) -> torch.dtype:
    """The number format of weights and activations.

    `auto` is the checkpoint's. The exception is a CPU that can only emulate it: prompts would take
    two to six times as long as in fp32, which holds every bf16 and fp16 value exactly.
    """
    if wanted != "auto":
        return NAMED[wanted]
    if device.type == "cpu" and not native_on_cpu(checkpoint, torch.cpu.get_capabilities()):
        return torch.float32
    return checkpoint


def native_on_cpu(dtype: torch.dtype, capabilities: Mapping[str, object]) -> bool:
    """Whether a CPU with these capabilities computes in `dtype` without emulation."""
    needed = NATIVE_ON_CPU[dtype]
    return not needed or any(capabilities.get(name) for name in needed)
