"""Small jobs of `aweigh quantize`, and what they have written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from aweigh_kernels.weight import Weight
from aweigh_quantize.calibration import Amount
from aweigh_quantize.job import Job
from aweigh_quantize.recipe import Recipe
from aweigh_runtime.formats.checkpoint import read_quantization
from aweigh_runtime.model.mapped import mapped
from aweigh_runtime.model.shards import stored_tensors

AMOUNT = Amount(num_texts=8, num_tokens=80)
CPU = torch.device("cpu")


class Silent:
    """Counts instead of showing."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, int, int]] = []
        self.steps = 0
        self._before = 0

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self.parts.append((what, total, done))
        self._before = self.steps

    def steps_of_part(self) -> int:
        return self.steps - self._before

    def advance(self) -> None:
        self.steps += 1


def job(model: Path, out: Path, texts: Sequence[Path] = (), **recipe: Any) -> Job:
    """With few texts, which are kept beside the model."""
    return job_of(model, out, Recipe(**({"scheme": "rtn"} | recipe)), texts)


def job_of(model: Path, out: Path, recipe: Recipe, texts: Sequence[Path] = ()) -> Job:
    """The same for a recipe."""
    return Job(
        model=f"file://{model}",
        directory=model,
        recipe=recipe,
        out=out,
        amount=AMOUNT,
        calibration=texts,
        device=CPU,
        cache_dir=model.parent / "cache",
    )


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All that a model's files hold."""
    return {tensor.name: values for tensor, values in mapped(stored_tensors(folder).values())}


def weights(folder: Path, dense: Path) -> dict[str, Weight]:
    """The quantized matrices of a model, as the runtime reads them, by module."""
    said, stored, before = read_quantization(folder), tensors(folder), tensors(dense)
    assert said is not None
    found = {}
    for name, values in before.items():
        module = name.removesuffix(".weight")
        layout = said.layout_of(module)
        if values.dim() == 2 and layout is not None:
            rows, columns = values.shape
            names = [part for part in layout.parts(rows, columns) if f"{module}.{part}" in stored]
            parts = {part: stored[f"{module}.{part}"] for part in names}
            found[module] = layout.read(parts, rows, columns)
    return found
