"""Runs the kernels of what requests have in common in Triton's interpreter.

It has to be chosen before they load. Prints, as JSON, what went wrong: nothing as a rule.
"""

import json
import os

os.environ["TRITON_INTERPRET"] = "1"

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from triton.runtime import interpreter

from aweigh_kernels.gpus import Gpu
from tests.kernels.architectures import gpu
from tests.kernels.common_cases import CommonCase

TOLERANCE = 2e-3  # of fp16
GPU = replace(gpu(89), num_processors=4)  # four programs for one head of keys, two for two
CASES: dict[str, Callable[[], CommonCase]] = {
    "one group": lambda: CommonCase([(640, [1, 17, 40, 200])], heads=(4, 2)),
    "more members than a unit has room for": lambda: CommonCase(
        [(320, [*range(1, 19)])], heads=(8, 1)
    ),
    "several groups, and requests that stand alone": lambda: CommonCase(
        [(272, [5, 9]), (1040, [3, 1, 64]), (0, [1, 30, 700]), (16, [2, 2])]
    ),
    "more units than programs": lambda: CommonCase([(16 + 16 * i, [3, 5]) for i in range(9)]),
    "a group of one": lambda: CommonCase([(96, [7]), (0, [20])]),
    "members without anything of their own": lambda: CommonCase([(320, [0, 0, 5]), (0, [1])]),
    "nothing in common": lambda: CommonCase([(0, [1, 64, 65, 200])]),
    "padding": lambda: CommonCase([(64, [1, 40, 80])], padding=5),
    "a draft behind": lambda: CommonCase([(320, [9, 3, 30, 80]), (0, [50])], new=3),
    "three heads for each of keys": lambda: CommonCase(
        [(320, [1, 70, 3])], heads=(6, 2), size=20
    ),
    "large blocks": lambda: CommonCase([(384, [1, 70, 3])], block=128),
    "small blocks": lambda: CommonCase([(392, [1, 70, 3])], block=8),
    "capped scores": lambda: CommonCase([(320, [1, 70, 3])], cap=3.0),
}  # fmt: skip


def drawn(seed: int) -> CommonCase:
    """Groups of any kind."""
    chance = Random(seed)
    groups = [
        (16 * chance.randrange(30), [chance.randint(1, 90) for _ in range(chance.randint(1, 9))])
        for _ in range(chance.randint(1, 5))
    ]
    return CommonCase(groups, padding=chance.randrange(4), new=chance.choice([1, 1, 2]))


def main() -> None:
    _take_loops_of_today()
    Gpu.of = lambda _: GPU  # type: ignore[method-assign, assignment]
    errors = {name: case().error() for name, case in CASES.items()}
    errors |= {f"drawn from {seed}": drawn(seed).error() for seed in (0, 3, 5)}
    print(json.dumps({name: each for name, each in errors.items() if not each < TOLERANCE}))  # noqa: T201


def _take_loops_of_today() -> None:
    """Bounds of loops are arrays of one number, which NumPy no longer takes for a number."""
    before = vars(interpreter)["_patch_lang_tensor"]

    def patched(tensor: Any, scope: Any) -> None:
        before(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patched


if __name__ == "__main__":
    main()
