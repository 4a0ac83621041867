"""Refuses tensors that do not fit together, by name. It changes none."""

from collections.abc import Sequence

import torch

FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def expect(
    name: str, tensor: torch.Tensor, shapes: Sequence[Sequence[int]], dtypes: Sequence[torch.dtype]
) -> None:
    """Refuse another shape or number format.

    Raises:
        ValueError: names the tensor, what it is and what was expected.
    """
    if tensor.dtype in dtypes and list(tensor.shape) in [list(shape) for shape in shapes]:
        return
    formats = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    expected = " or ".join(str(list(shape)) for shape in shapes)
    found = str(tensor.dtype).removeprefix("torch.")
    raise ValueError(f"{name} is {found} {list(tensor.shape)}; expected {formats} {expected}")


def expect_input(x: torch.Tensor, num_columns: int) -> None:
    """Refuse activations of another width.

    Raises:
        ValueError: names what was expected.
    """
    if x.dim() != 2 or x.shape[1] != num_columns:
        raise ValueError(f"x is {list(x.shape)}; expected [T, {num_columns}]")
