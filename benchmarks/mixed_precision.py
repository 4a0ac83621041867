"""Whether `aweigh quantize --budget` spends a size well: against the same size spent otherwise.

    python benchmarks/mixed_precision.py [MODEL] [--device cpu] [--save FILE.md]

Sizes are equal to the last bit that fits: what 4 bits in groups of 32 take, scales and all. A model
of that size is quantized by GPTQ with what the budget chose for each matrix, with 4 bits in groups
of 32 everywhere, and with choices drawn by chance from the same set. All are measured on the same
texts, which the dense model writes and nothing is calibrated on; differences are paired by text.
"""

import argparse
import math
import random
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from aweigh_bench import machine
from aweigh_bench.report import Bar, Cell, Report, Table
from aweigh_cli.model_making import chosen, fetched
from aweigh_cli.serve import default_cache_dir
from aweigh_quantize.budget import (
    assigned,
    option_sizes,
    product_sizes,
)
from aweigh_quantize.calibration import Amount, from_model
from aweigh_quantize.checkpoint import Checkpoint, read_checkpoint
from aweigh_quantize.declaration import declare
from aweigh_quantize.display import Quiet
from aweigh_quantize.evaluation import Evaluation
from aweigh_quantize.one_layer import layer_matrices
from aweigh_quantize.passage import Passage
from aweigh_quantize.product_losses import DENSE, Progress, measured, some
from aweigh_quantize.quantizer import Quantizer, Work
from aweigh_quantize.recipe import Precision, Recipe
from aweigh_quantize.texts import Text
from aweigh_runtime.engine.threads import use_threads
from aweigh_runtime.model.placement import Place

UNIFORM = Recipe(scheme="gptq", bits=4, group_size=32)
NUM_RANDOM = 5
CLOSE = 0.995  # of the size, that a random assignment takes at least

Precisions = Mapping[str, Precision | None]


@dataclass(frozen=True, slots=True)
class Setting:
    """The model and its texts."""

    checkpoint: Checkpoint
    places: dict[str, Place]  # by module
    calibration: list[Text]
    held_out: list[Text]
    device: torch.device

    @property
    def num_weights(self) -> int:
        return sum(math.prod(place.shape) for place in self.places.values())

    def bits(self, sizes: Mapping[str, Mapping[str, int]], found: Precisions) -> int:
        """Of all matrices together."""
        return sum(sizes[module][_option(each)] for module, each in found.items())

    def sizes(self, recipe: Recipe) -> dict[str, dict[str, int]]:
        return {
            module: option_sizes(self.checkpoint, recipe, place)
            for module, place in self.places.items()
        }

    def loss(self, recipe: Recipe, found: Precisions) -> Evaluation:
        """Quantize in memory with these precisions."""
        with tempfile.TemporaryDirectory(prefix="aweigh-bench-") as folder:
            work = Work(
                checkpoint=self.checkpoint,
                recipe=recipe,
                precisions=found,
                declared=declare(recipe, found),
                device=self.device,
                calibration=self.calibration,
                held_out={"own": self.held_out},
            )
            return Quantizer(work, Path(folder), Quiet()).run()["own"]


@dataclass(frozen=True, slots=True)
class Spent:
    """One way to spend the size."""

    name: str
    bits: float  # of a weight, scales included
    loss: Evaluation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="builtin://helmsman-8m")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--save", type=Path, action="append", default=[])
    given = parser.parse_args()
    setting = _setting(given.model, chosen(given.device))
    sizes = setting.sizes(UNIFORM)
    uniform: Precisions = dict.fromkeys(setting.places, UNIFORM.precision)
    num_bits = setting.bits(sizes, uniform)
    recipe = Recipe(scheme="gptq", budget=num_bits / setting.num_weights)
    sizes = setting.sizes(recipe)
    started = time.monotonic()
    losses = measured(
        setting.checkpoint,
        recipe,
        setting.places,
        Passage(setting.checkpoint, some(setting.calibration), setting.device),
        Progress(advance=lambda: None, remember=lambda name, find_out: find_out()),
    )
    found = assigned(setting.checkpoint, recipe, setting.places, losses)
    seconds = time.monotonic() - started
    print(f"measuring and dividing: {seconds:.0f} s", file=sys.stderr, flush=True)
    ways = {"budget": found, "4 bit g32": uniform}
    for seed in range(NUM_RANDOM):
        ways[f"random {seed + 1}"] = drawn(setting, recipe, num_bits, seed)
    smaller = replace(recipe, budget=4.6)
    ways["budget of 4.6 bits"] = assigned(setting.checkpoint, smaller, setting.places, losses)
    spent = []
    for name, way in ways.items():
        bits = setting.bits(sizes, way) / setting.num_weights
        spent.append(Spent(name, bits, setting.loss(recipe, way)))
        print(f"{name}: {bits:.3f} bits, KL {spent[-1].loss.kl}", file=sys.stderr, flush=True)
    report = _report(given.model, spent, found, seconds)
    print(report.text())
    for path in given.save:
        report.save(path)


def drawn(setting: Setting, recipe: Recipe, num_bits: int, seed: int) -> Precisions:
    """By chance, of just that size: choices are drawn again until they fit."""
    chance = random.Random(seed)
    sizes = product_sizes(setting.checkpoint, recipe, setting.places)
    meant: dict[str, Precision | None] = {str(each): each for each in recipe.choices}
    names = [*meant, DENSE]
    found = {product: chance.choice(names) for product in sizes}
    total = sum(sizes[product][name] for product, name in found.items())
    while not CLOSE * num_bits <= total <= num_bits:
        product, name = chance.choice(list(sizes)), chance.choice(names)
        after = total + sizes[product][name] - sizes[product][found[product]]
        if abs(after - num_bits) < abs(total - num_bits) or total == num_bits:
            found[product], total = name, after
    return {module: meant.get(found[each.weight]) for module, each in setting.places.items()}


def _setting(model: str, device: torch.device) -> Setting:
    cache = default_cache_dir()
    checkpoint = read_checkpoint(fetched(model, None, cache))
    use_threads(device, 0)
    places = {checkpoint.module(place): place for place in layer_matrices(checkpoint.config)}
    amount = Amount()
    own, other = (
        from_model(checkpoint, each, device, cache, lambda: None)
        for each in (amount, amount.held_out())
    )
    return Setting(checkpoint, places, own, other, device)


def _report(model: str, spent: list[Spent], found: Precisions, seconds: float) -> Report:
    mixed, uniform, *others, smaller = spent
    median = sorted(others, key=lambda each: each.loss.kl.value)[len(others) // 2]
    rows: list[tuple[Cell, ...]] = []
    for each in spent:
        more = "-" if each is mixed else str(mixed.loss.excess(each.loss))
        rows.append((each.name, f"{each.bits:.3f}", str(each.loss.kl), more))
    return Report(
        title="Dividing a size between matrices",
        command=f"python {shlex.join(sys.argv)}",
        model=model,
        machine=machine.describe(),
        tables=[
            Table("The same size", ("assignment", "bits", "KL", "more than the budget"), rows),
            _chosen(found),
        ],
        bars=[
            _bar("the budget loses no more than 4 bit g32", mixed, uniform, strict=False),
            _bar(f"{smaller.name} loses no more than 4 bit g32", smaller, uniform, strict=False),
            _bar(
                f"the budget loses less than the median, {median.name}", mixed, median, strict=True
            ),
        ],
        notes=[
            f"Bits: of a weight, scales included. KL: nats per token over "
            f"{mixed.loss.num_tokens:,} tokens of texts that were held out; in brackets intervals "
            "of 95 %, by documents; differences are paired. Random assignments are drawn from "
            f"what the budget chooses from, and take at least {100 * CLOSE:g} % of the size.",
            f"Measuring every product and dividing took {seconds:.0f} s.",
        ],
    )


def _bar(what: str, mixed: Spent, other: Spent, *, strict: bool) -> Bar:
    more = mixed.loss.excess(other.loss)
    sure = True if more.low > 0 else False if more.high < 0 else None
    met = sure if strict or more.value < 0 else True
    return Bar(what, "> 0" if strict else ">= 0", f"{more} nats per token more", met)


def _chosen(found: Precisions) -> Table:
    """How many matrices of each kind got what."""
    kinds = list(dict.fromkeys(module.rpartition(".")[2] for module in found))
    options = sorted({_option(each) for each in found.values()})
    rows: list[tuple[Cell, ...]] = []
    for option in options:
        counts = [
            sum(m.endswith(kind) and _option(each) == option for m, each in found.items())
            for kind in kinds
        ]
        rows.append((option, *counts))
    return Table("Matrices that got", ("precision", *kinds), rows)


def _option(precision: Precision | None) -> str:
    return DENSE if precision is None else str(precision)


if __name__ == "__main__":
    main()
