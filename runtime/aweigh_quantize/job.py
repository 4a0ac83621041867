"""One `aweigh quantize`: from a dense model to a folder with a quantized one."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from aweigh_quantize.budget import budgeted, num_advances
from aweigh_quantize.calibration import Amount, divided, from_files, from_model, not_held_out
from aweigh_quantize.card import card
from aweigh_quantize.checkpoint import Checkpoint, read_checkpoint
from aweigh_quantize.declaration import Declared, declare
from aweigh_quantize.display import Display
from aweigh_quantize.evaluation import Evaluation
from aweigh_quantize.failures import Unusable
from aweigh_quantize.one_layer import layer_matrices, routers
from aweigh_quantize.outcome import Outcome
from aweigh_quantize.product_losses import Progress
from aweigh_quantize.quantizer import Quantizer, Work
from aweigh_quantize.recipe import Precision, Recipe, RecipeError, unmatched
from aweigh_quantize.recovery import Training, expect_enough
from aweigh_quantize.result import write_result
from aweigh_quantize.tensor_file import write_text
from aweigh_quantize.texts import Text, num_tokens
from aweigh_quantize.unfinished import Unfinished
from aweigh_runtime.engine.threads import use_threads
from aweigh_runtime.formats.layout import LayoutError
from aweigh_runtime.model.footprint import weight_bytes

OWN_TEXTS = "the model's own texts"
HELD_OUT = "held-out parts of the calibration files"
_WIDE_BYTES = 4  # of a weight in fp32


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What was asked for."""

    model: str  # as the user names it
    directory: Path  # of the dense model
    recipe: Recipe
    out: Path
    amount: Amount  # of text to calibrate on; as much is held out to measure with
    # Files, a part of which is held out; none: the model's own texts, for which all of it must be
    # in memory.
    calibration: Sequence[Path] = ()
    perplexity: Sequence[Path] = ()  # files to measure with, too
    training: Training = field(default_factory=Training)  # where the recipe recovers
    device: torch.device
    cache_dir: Path
    command: str = "aweigh quantize"


def run(job: Job, display: Display) -> Outcome:
    """Quantize, measure and write, or go on with what the same job has begun.

    Raises:
        RecipeError, TooShort, Occupied: what was asked for is impossible.
        Unusable: the model's numbers are no use, or its chat template.
        StartFailure: the dense model cannot be read, or must be in memory and does not fit.
        CannotWrite: the disk is full or refuses; the same job goes on where this one has stopped.
    """
    started = time.monotonic()
    checkpoint = read_checkpoint(job.directory)
    if job.recipe.recover:
        expect_enough(job.amount.for_training().most_tokens, from_files=False)
    use_threads(job.device, weight_bytes(checkpoint.config, _WIDE_BYTES))
    precisions = precisions_of(checkpoint, job.recipe)
    dense = [checkpoint.module(place) for place in routers(checkpoint.config)]
    _expect_storable(checkpoint, job.recipe, declare(job.recipe, precisions, dense))
    unfinished = Unfinished(job.out)
    with unfinished.claimed(asdict(job.recipe), _subject(job, checkpoint)):
        calibration, held_out = _texts(job, checkpoint, display)
        to_train_on = _to_train_on(job, checkpoint, display)
        if job.recipe.budget is not None:
            precisions = _remembered(
                unfinished,
                lambda: _budgeted(job, checkpoint, precisions, calibration, unfinished, display),
            )
        declared = declare(job.recipe, precisions, dense)
        work = Work(
            checkpoint=checkpoint,
            recipe=job.recipe,
            precisions=precisions,
            declared=declared,
            device=job.device,
            calibration=calibration,
            to_train_on=to_train_on,
            training=job.training.within(to_train_on),
            held_out=held_out,
        )
        quantizer = Quantizer(work, unfinished.folder, display)
        losses = quantizer.run()
        _expect_finite(losses)
        display.begin("writing", 1)
        sizes = write_result(unfinished.model, checkpoint, quantizer.files(), declared.config)
        found = Outcome(
            recipe=job.recipe,
            layout=declared.quantization.description,
            losses=losses,
            sizes=sizes,
            seconds=time.monotonic() - started,
        )
        write_text(
            unfinished.model / "README.md", card(job.out.name, job.model, job.command, found)
        )
        unfinished.complete()
    display.advance()
    return found


def precisions_of(checkpoint: Checkpoint, recipe: Recipe) -> dict[str, Precision | None]:
    """By module, of those that can be quantized; None: it stays dense.

    Raises:
        RecipeError: a module to keep does not exist, or all are to be kept.
    """
    modules = [checkpoint.module(place) for place in layer_matrices(checkpoint.config)]
    unknown = unmatched(recipe.keep, modules)
    if unknown is not None:
        raise RecipeError(
            f"--keep is {unknown}, which is no module of this model; expected one such as "
            f"{modules[-1]}, or its end: {modules[-1].rpartition('.')[2]}"
        )
    if all(map(recipe.keeps, modules)):
        raise RecipeError(
            f"--keep is {', '.join(recipe.keep)}, which leaves nothing to quantize; expected to "
            f"keep some of the {len(modules)} matrices only"
        )
    return {module: None if recipe.keeps(module) else recipe.precision for module in modules}


def _budgeted(
    job: Job,
    checkpoint: Checkpoint,
    precisions: Mapping[str, Precision | None],
    texts: Sequence[Text],
    unfinished: Unfinished,
    display: Display,
) -> dict[str, Precision | None]:
    kept = frozenset(module for module, found in precisions.items() if found is None)
    parts = num_advances(checkpoint, kept)
    done = sum(count for name, count in parts.items() if unfinished.remembers(name))
    display.begin("products in layers", sum(parts.values()), done)
    progress = Progress(display.advance, unfinished.remembered)
    return budgeted(checkpoint, job.recipe, kept, texts, job.device, progress)


def _remembered(
    unfinished: Unfinished, find_out: Callable[[], Mapping[str, Precision | None]]
) -> dict[str, Precision | None]:
    """A budget is divided once only, however often the run is killed."""
    found = unfinished.remembered(
        "precisions",
        lambda: {
            module: None if each is None else asdict(each) for module, each in find_out().items()
        },
    )
    return {module: None if each is None else Precision(**each) for module, each in found.items()}


def _expect_storable(checkpoint: Checkpoint, recipe: Recipe, declared: Declared) -> None:
    """Refuse before hours of work what could not be written afterwards."""
    for place in layer_matrices(checkpoint.config):
        module = checkpoint.module(place)
        layout, (rows, columns) = declared.quantization.layout_of(module), place.shape
        if layout is None:
            continue
        try:
            layout.parts(rows, columns)
        except LayoutError as error:
            raise RecipeError(
                f"{module} cannot be written: {error}; keep it dense with --keep, or choose "
                "another scheme"
            ) from error
        if recipe.has_groups and columns % recipe.group_size:
            raise RecipeError(
                f"--group-size is {recipe.group_size}; expected a divisor of the {columns} inputs "
                f"of {module}, or -1 for whole rows: else keep it dense with --keep"
            )


def _expect_finite(losses: Mapping[str, Evaluation]) -> None:
    """Refuse a result that puts out no numbers, whatever was wrong with the model."""
    for texts, found in losses.items():
        if not math.isfinite(found.kl.value):
            raise Unusable(
                f"on {texts} the KL to the dense model is {found.kl.value}; expected "
                "a finite number: one of them overflows, so see whether the dense model is whole"
            )


def _subject(job: Job, checkpoint: Checkpoint) -> dict[str, Any]:
    """What else the result depends on."""
    return {
        "model": checkpoint.fingerprint(),
        "text": asdict(job.amount),
        "training": asdict(job.training),
        "calibration": [_stamp(path) for path in job.calibration],
        "perplexity": [_stamp(path) for path in job.perplexity],
    }


def _stamp(path: Path) -> list[Any]:
    found = path.stat()
    return [str(path.resolve()), found.st_size, found.st_mtime_ns]


def _texts(
    job: Job, checkpoint: Checkpoint, display: Display
) -> tuple[list[Text], dict[str, list[Text]]]:
    """To calibrate on, and by name to measure with."""
    if job.calibration:
        calibration, measured = divided(job.calibration, checkpoint, job.amount)
        held_out = {HELD_OUT: measured}
    else:
        calibration = _own(job, checkpoint, job.amount, "texts to calibrate on", display)
        amount = job.amount.held_out()
        held_out = {OWN_TEXTS: _own(job, checkpoint, amount, "texts to measure with", display)}
    for path in job.perplexity:
        held_out[str(path)] = from_files([path], checkpoint, job.amount)
    return calibration, held_out


def _to_train_on(job: Job, checkpoint: Checkpoint, display: Display) -> list[Text]:
    """More than to calibrate on: each says something new."""
    if not job.recipe.recover:
        return []
    if job.calibration:
        texts = not_held_out(job.calibration, checkpoint, job.amount)
    else:
        texts = _own(job, checkpoint, job.amount.for_training(), "texts to train on", display)
    expect_enough(num_tokens(texts), from_files=bool(job.calibration))
    return texts


def _own(
    job: Job, checkpoint: Checkpoint, amount: Amount, what: str, display: Display
) -> list[Text]:
    display.begin(what, amount.num_texts)
    return from_model(checkpoint, amount, job.device, job.cache_dir, display.advance)
