"""One `aweigh distill`: from a draft and its target to a folder with a better draft."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from aweigh_distill.acceptance import Document, compare, measure
from aweigh_distill.answers import Texts, texts
from aweigh_distill.card import card
from aweigh_distill.outcome import Outcome
from aweigh_distill.prompts import (
    Prompt,
    built_in,
    encoded,
    expect_enough,
    longest,
    read_files,
)
from aweigh_distill.recipe import Recipe
from aweigh_distill.state import State
from aweigh_distill.student import Student
from aweigh_distill.training import Schedule, Training, default_rate
from aweigh_distill.vocabularies import expect_same
from aweigh_quantize.checkpoint import Checkpoint, fingerprint, read_checkpoint
from aweigh_quantize.display import Display
from aweigh_quantize.failures import Refusal
from aweigh_quantize.result import write_model
from aweigh_quantize.saving import SHARE, Saving
from aweigh_quantize.tensor_file import entry, write_tensors, write_text
from aweigh_quantize.texts import Text
from aweigh_runtime.engine.threads import use_threads
from aweigh_runtime.failures import UnsupportedModel
from aweigh_runtime.formats.checkpoint import read_quantization
from aweigh_runtime.model.architectures import read_config
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.load import Wish, load
from aweigh_runtime.model.shards import stored_tensors
from aweigh_runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What was asked for."""

    target: str  # as the user names it
    target_directory: Path
    draft: str
    draft_directory: Path
    recipe: Recipe
    out: Path
    prompts: Sequence[Path] = ()  # files; none: what comes with the shipped models
    device: torch.device
    command: str = "aweigh distill"
    saving_share: float = SHARE  # of the time of training


class BadDraft(Refusal):
    """Nothing can be gained with such a draft; the message says why."""


def run(job: Job, display: Display) -> Outcome:
    """Ask, measure, train, write and measure again; or go on with what the same job has begun.

    Raises:
        BadPrompts, BadDraft, OtherVocabulary, Occupied, Diverged: what was asked for is impossible.
        StartFailure: a model cannot be read or trained, or does not fit.
        CannotWrite: the disk is full; the same job goes on where this one has stopped.
    """
    started = time.monotonic()
    checkpoint = _draft_checkpoint(job.draft_directory)
    expect_same(job.target_directory, job.draft_directory)
    _expect_another(job, checkpoint)
    job = _as_short_as_models(job, checkpoint)
    prompts = _prompts(job)
    state = State(job.out)
    with state.claimed(asdict(job.recipe), _subject(job, checkpoint)):
        target = _target(job)
        told = texts(target, job.target_directory, prompts, job.recipe, state, display)
        display.begin("measuring", 2)
        before = state.remembered(
            "before", lambda: _as_lists(_worth(job, target, job.draft_directory, told))
        )
        display.advance()
        _train(job, target, checkpoint, told.training, state, display)
        display.begin("measuring", 2, 1)
        after = _worth(job, target, state.model, told)
        found = Outcome(
            acceptance=compare(_documents(before[0]), after[0]),
            agreement=compare(_documents(before[1]), after[1]),
            num_training=len(told.training),
            num_held_out=len(told.kinds),
            seconds=time.monotonic() - started,
        )
        write_text(
            state.model / "README.md", card(job.out.name, job.draft, job.target, job.command, found)
        )
        state.complete()
    display.advance()
    return found


def _draft_checkpoint(directory: Path) -> Checkpoint:
    if quantization := read_quantization(directory):
        raise UnsupportedModel(
            f"the draft {directory} is quantized: {quantization.description}; its integers cannot "
            "be trained: distill the dense model that it was made of, and quantize the result"
        )
    return read_checkpoint(directory)


def _expect_another(job: Job, draft: Checkpoint) -> None:
    target = fingerprint(job.target_directory, stored_tensors(job.target_directory).values())
    if draft.fingerprint() == target:
        raise BadDraft(
            f"--draft is {job.draft}, the target itself, which accepts all that it proposes; "
            "expected a smaller model with its tokenizer"
        )


def _as_short_as_models(job: Job, draft: Checkpoint) -> Job:
    target = read_config(job.target_directory)
    size = min(job.recipe.text_tokens, target.max_positions, draft.config.max_positions)
    return replace(job, recipe=replace(job.recipe, text_tokens=size))


def _target(job: Job) -> Decoder:
    wish = Wish(max_model_len=job.recipe.text_tokens)
    loaded = load(job.target_directory, wish, job.device, lambda done, total: None)
    use_threads(job.device, loaded.weight_bytes)
    return loaded.decoder


def _subject(job: Job, draft: Checkpoint) -> dict[str, Any]:
    """What else the result depends on."""
    target = job.target_directory
    stamps = [(path, path.stat()) for path in job.prompts]
    return {
        "target": fingerprint(target, stored_tensors(target).values()),
        "draft": draft.fingerprint(),
        "prompts": [
            [str(path.resolve()), found.st_size, found.st_mtime_ns] for path, found in stamps
        ],
    }


def _prompts(job: Job) -> list[Prompt]:
    """Those of the files, or the questions that the target comes with: enough of them."""
    directory, recipe = job.target_directory, job.recipe
    asked = read_files(job.prompts) if job.prompts else built_in(directory, recipe.seed)
    tokenizer = Tokenizer.load(directory)
    try:
        prompts = encoded(asked, directory, tokenizer)
    finally:
        tokenizer.close()
    usable = [each for each in prompts if 0 < len(each.tokens) <= longest(recipe.text_tokens)]
    expect_enough(usable, len(asked), recipe.text_tokens)
    return usable


def _worth(
    job: Job, target: Decoder, directory: Path, told: Texts
) -> tuple[list[Document], list[Document]]:
    """A draft as it is served: acceptance, and agreement of greedy choices."""
    wish = Wish(max_model_len=job.recipe.text_tokens)
    draft = load(directory, wish, job.device, lambda done, total: None).decoder
    return (
        measure(target, draft, told.kinds, told.drawn, greedy=False),
        measure(target, draft, told.kinds, told.greedy, greedy=True),
    )


def _as_lists(worth: tuple[list[Document], list[Document]]) -> list[list[dict[str, Any]]]:
    return [[asdict(document) for document in documents] for documents in worth]


def _documents(found: list[dict[str, Any]]) -> list[Document]:
    return [Document(**each) for each in found]


def _train(
    job: Job,
    target: Decoder,
    checkpoint: Checkpoint,
    texts: Sequence[Text],
    state: State,
    display: Display,
) -> None:
    """Leaves the draft in `state.model`, but for its card."""
    recipe = job.recipe
    student = Student(checkpoint, texts, target.config.vocab_size, job.device)
    schedule = Schedule(
        steps=recipe.steps,
        step_tokens=recipe.step_tokens,
        learning_rate=recipe.learning_rate or default_rate(checkpoint.config.hidden_size),
        seed=recipe.seed,
    )
    training = Training(target, student, texts, schedule)
    if saved := state.saved():
        training.restore(*saved)
    display.begin("training", recipe.steps, training.step)
    saving = Saving(job.saving_share)

    def finished() -> None:
        display.advance()
        if saving.is_due or training.step == recipe.steps:
            with saving.timed():
                state.save(training.step, training.tensors())

    training.run(finished)
    learned = state.folder / "learned.safetensors"
    write_tensors(learned, [entry(each.name, each.values) for each in student.stored()])
    write_model(state.model, checkpoint, [learned], {})
