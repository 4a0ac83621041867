"""`aweigh distill`: tunes a draft model to a target, for speculative decoding."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from aweigh_cli.arguments import MAX_SEED, as_typed
from aweigh_cli.failures import CommandFailure, ExitStatus
from aweigh_cli.model_making import chosen, explained, fetched, readable
from aweigh_cli.serve import default_cache_dir
from aweigh_distill.recipe import BEGINNINGS

if TYPE_CHECKING:
    from aweigh_distill.job import Job
    from aweigh_distill.outcome import Outcome


def distill(  # noqa: PLR0913 - one parameter for each field of Recipe, and the models
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="A folder, or a URI as for `aweigh serve`."),
    ],
    *,
    draft: Annotated[str, typer.Option(help="The same, of the dense draft to begin with.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")],
    prompts: Annotated[
        list[Path] | None,
        typer.Option(
            help="Text, a prompt a line, or .jsonl with prompt or messages; repeatable. "
            "(default: those of the builtin models)"
        ),
    ] = None,
    answers: Annotated[
        int, typer.Option(min=1, help="To each prompt: a greedy one, then drawn ones.")
    ] = 8,
    beginnings: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Texts of prose that the target begins itself, to learn from as well. "
            f"(default: {BEGINNINGS}; none with --prompts)",
        ),
    ] = None,
    text_tokens: Annotated[
        int, typer.Option(min=16, help="Of a prompt and its answer, at most.")
    ] = 160,
    steps: Annotated[int, typer.Option(min=1, help="Of training.")] = 800,
    step_tokens: Annotated[int, typer.Option(min=1, help="Of a step, about.")] = 1024,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="The highest. (default: by the draft's width)", show_default=False),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Gives the same answers and steps again.")
    ] = 0,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto: the GPU where there is one.")
    ] = "auto",
    revision: Annotated[str | None, typer.Option(help="Of an hf:// target.")] = None,
    draft_revision: Annotated[str | None, typer.Option(help="Of an hf:// draft.")] = None,
    cache_dir: Annotated[
        Path | None, typer.Option(envvar="AWEIGH_CACHE_DIR", help="As for `aweigh serve`.")
    ] = None,
) -> None:
    """Tune a draft model to a target, and measure how much more the target accepts.

    The target answers prompts; the draft learns its distribution at every token of the answers. One
    prompt of eight is held out to measure with. A command that was killed goes on where it was when
    it is given again. At least 64 different prompts are needed, and better 1,000.
    """
    from aweigh_cli.quantize_progress import display
    from aweigh_distill.job import Job, run
    from aweigh_distill.recipe import Recipe

    if learning_rate is not None and not 0 < learning_rate <= 1:
        raise CommandFailure(
            f"--learning-rate is {learning_rate}; expected more than 0 and at most 1: leave it out "
            "to have it chosen",
            ExitStatus.BAD_INPUT,
        )
    cache = cache_dir or default_cache_dir()
    with explained(), display() as shown:
        job = Job(
            target=target,
            target_directory=fetched(target, revision, cache),
            draft=draft,
            draft_directory=fetched(draft, draft_revision, cache),
            recipe=Recipe(
                answers=answers,
                beginnings=(0 if prompts else BEGINNINGS) if beginnings is None else beginnings,
                text_tokens=text_tokens,
                steps=steps,
                step_tokens=step_tokens,
                learning_rate=learning_rate,
                seed=seed,
            ),
            out=output,
            prompts=readable(prompts, "--prompts"),
            device=chosen(device),
            command=as_typed(),
        )
        found = run(job, shown)
    typer.echo(_text(job, found))


def _text(job: "Job", found: "Outcome") -> str:
    measures = {"acceptance": found.acceptance, "greedy agreement": found.agreement}
    lines = [f"{job.out}: {job.draft}, tuned to {job.target}"]
    for measure, of_kinds in measures.items():
        for kind, each in of_kinds.items():
            lines.append(
                f"{measure}, {kind}: {each.before} before, {each.after} after; gain {each.gain}, "
                f"{each.num_tokens:,} tokens"
            )
    serve = f"aweigh serve {job.target} --draft-model file://{job.out.absolute()}"
    took = f"took {found.seconds:,.0f} s"
    if found.is_worse:
        lines.append(f"{took}; it is worse: keep the old draft, and give more prompts or answers")
    elif not found.is_better:
        lines.append(
            f"{took}; it is not sure to be accepted more often: keep the old draft, give more "
            f"prompts, or try it: {serve}"
        )
    else:
        lines.append(f"{took}; serve it: {serve}")
    return "\n".join(lines)
