"""Runs the kernels of sampling in Triton's interpreter, which has to be chosen before they load.

Prints, as JSON, what went wrong: nothing as a rule.
"""

import json
import os
import sys

import torch

os.environ["TRITON_INTERPRET"] = "1"

from collections.abc import Sequence

from aweigh_kernels import sampling_gpu
from aweigh_runtime.engine.sampling.drawing import by_torch, settings_of
from aweigh_runtime.engine.sampling.row import Row
from tests.kernels.sampling_cases import known, random_logits, rows_of_every_kind


def interpreted(logits: torch.Tensor, rows: Sequence[Row]) -> tuple[list[int], torch.Tensor]:
    settings = settings_of(rows, logits.shape[-1])
    settings.packed[:, 1] = [row.position for row in rows]
    packed = torch.from_numpy(settings.packed)
    tokens, largest = sampling_gpu.launch(
        logits, packed, races=settings.races, weighs=settings.weighs, early=False
    )
    return tokens.tolist(), largest


def main() -> None:
    wrong: list[str] = []
    for size in map(int, sys.argv[1:]):
        rows = rows_of_every_kind(size)
        logits = random_logits(len(rows), size)
        tokens, largest = interpreted(logits, rows)
        expected = by_torch(logits, rows).tokens.tolist()
        wrong += [
            f"{row.sampling} of {size}: {token} instead of {other}"
            for row, token, other in zip(rows, tokens, expected, strict=True)
            if token != other
        ]
        if not torch.equal(largest, logits.amax(-1)):
            wrong.append(f"the largest of {size}")
        if size > 1:
            wrong += _unlike_known(size)
    print(json.dumps(wrong))  # noqa: T201


def _unlike_known(size: int) -> list[str]:
    names, lines, rows, allowed = zip(*known(size), strict=True)
    tokens, _ = interpreted(torch.stack(lines), rows)
    return [
        f"{name} of {size}: {token}"
        for name, token, those in zip(names, tokens, allowed, strict=True)
        if token not in those
    ]


if __name__ == "__main__":
    main()
