"""Kernels of vLLM, to be timed beside ours: its libraries, unpacked from a folder that is given.

They want the torch that their wheel was built for. Nothing of them becomes part of the project.
"""

import lzma
import tempfile
from pathlib import Path

import torch


def load(folder: Path) -> None:
    """Unpack and load every `*.so.xz` of a folder.

    Raises:
        FileNotFoundError: there is none.
    """
    packed = sorted(folder.glob("*.so.xz"))
    if not packed:
        raise FileNotFoundError(f"{folder} holds no *.so.xz; expected vLLM's libraries, packed")
    target = Path(tempfile.mkdtemp(prefix="aweigh-peers-"))
    for each in packed:
        library = target / each.name.removesuffix(".xz")
        library.write_bytes(lzma.decompress(each.read_bytes()))
        torch.ops.load_library(library)  # type: ignore[no-untyped-call]


def cutlass(
    output: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    x_scale: torch.Tensor,
    weight_scale: torch.Tensor,
) -> torch.Tensor:
    """Products of E4M3 or int8 by CUTLASS.

    Args:
        output: [T, O], bf16.
        x: [T, I].
        weight: [O, I].
        x_scale: fp32, [T, 1]; by groups [T, I / 128], a token's far apart.
        weight_scale: fp32, [1, O]; of blocks [I / 128, O / 128].
    """
    torch.ops._C.cutlass_scaled_mm(output, x, weight.t(), x_scale, weight_scale, None)
    return output
