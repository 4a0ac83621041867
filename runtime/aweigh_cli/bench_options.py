"""What the commands of `aweigh bench` share: options, how they are written, what comes out."""

import asyncio
import os
import shlex
import sys
from collections.abc import Callable, Coroutine
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from aweigh_cli.failures import CommandFailure, ExitStatus
from aweigh_cli.serve import default_cache_dir

if TYPE_CHECKING:
    from aweigh_bench.report import Report
    from aweigh_bench.subject import Setting

Options = TypeVar("Options")

NEEDS = ("aiohttp", "msgspec")
LIMITS = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2e": "e2el", "e2el": "e2el"}

Format = Literal["text", "markdown", "json"]
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="URI of the model, as for `aweigh serve`.")
]
OptionalModel = Annotated[
    str | None, typer.Argument(metavar="MODEL", help="URI of the model, as for `aweigh serve`.")
]
UrlOption = Annotated[
    str | None, typer.Option(help="An OpenAI API that runs already, instead of MODEL.")
]
OutputOption = Annotated[Format, typer.Option(help="What is printed.")]
SaveOption = Annotated[
    list[Path] | None, typer.Option(help="File for the result, .json or .md; repeatable.")
]
PlotOption = Annotated[Path | None, typer.Option(help="PNG file for diagrams.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Threads of torch on a CPU. (default: the server's)")
]
FlagsOption = Annotated[
    list[str] | None,
    typer.Option("--serve-flag", help="A flag for `aweigh serve`: --serve-flag=--dtype=fp32."),
]
CacheOption = Annotated[
    Path | None, typer.Option(envvar="AWEIGH_CACHE_DIR", help="As for `aweigh serve`.")
]
SeedOption = Annotated[int, typer.Option(help="Gives the same requests again.")]
VocabularyOption = Annotated[int, typer.Option(min=257, help="Token ids are drawn below this one.")]


def lengths_of(text: str) -> tuple[int, int]:
    """`128` or `32:512`."""
    low, _, high = text.partition(":")
    try:
        length = int(low), int(high or low)
    except ValueError:
        length = 0, 0
    if not 1 <= length[0] <= length[1]:
        raise typer.BadParameter(f"{text!r} is no number of tokens; expected 128, or 32:512")
    return length


def limit_of(text: str) -> tuple[str, float]:
    """`ttft:200`, in milliseconds."""
    name, _, limit = text.partition(":")
    try:
        milliseconds = float(limit)
    except ValueError:
        milliseconds = -1.0
    if name not in LIMITS or not 0 < milliseconds < float("inf"):
        raise typer.BadParameter(
            f"{text!r} is no limit; expected one such as ttft:200, in milliseconds, of "
            f"{', '.join(LIMITS)}"
        )
    return LIMITS[name], milliseconds


def sizes_of(text: str) -> list[int]:
    """`1,2,4`, in rising order."""
    return _numbers(text, 1, 1 << 40)


def percents_of(text: str) -> list[int]:
    """`0,50,90`, in rising order."""
    return _numbers(text, 0, 99)


def _numbers(text: str, low: int, high: int) -> list[int]:
    try:
        numbers = sorted({int(number) for number in text.split(",")})
    except ValueError:
        numbers = []
    if not numbers or not low <= numbers[0] <= numbers[-1] <= high:
        raise typer.BadParameter(
            f"{text!r} is no list of whole numbers from {low} to {high}; expected one such as "
            "1,8,64"
        )
    return numbers


def expect_installed() -> None:
    """The extra `cli` alone brings these commands, but not what they run."""
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        raise CommandFailure(
            f"measuring needs {', '.join(missing)}, not installed here; expected the extra "
            "`bench`: install aweigh[bench]"
        )


def setting_of(  # noqa: PLR0913 - what the commands have in common
    model: str | None,
    flags: list[str] | None,
    threads: int | None,
    cache_dir: Path | None,
    *,
    base_url: str | None = None,
    vocabulary: int = 8000,
    seed: int = 0,
) -> "Setting":
    """What is measured, and how it is served."""
    from aweigh_bench.subject import Setting

    return Setting(
        model=model,
        base_url=base_url,
        api_key=os.environ.get("OPENAI_API_KEY"),
        flags=tuple(flags or ()),
        cache_dir=cache_dir or default_cache_dir(),
        threads=threads,
        vocabulary=vocabulary,
        seed=seed,
    )


def carry_out(
    run: "Callable[[Options], Coroutine[None, None, Report]]",
    options: Options,
    output: Format,
    save: list[Path] | None,
    plot: Path | None,
) -> None:
    """Run a measurement and hand out its report; what cannot be handed out is not measured."""
    from aweigh_bench import plots, report
    from aweigh_bench.failures import BenchFailure, Unreachable

    try:
        for path in save or []:
            report.expect_suffix(path)
        if plot is not None:
            plots.expect_possible(plot)
        found = asyncio.run(run(options))
        typer.echo({"text": found.text, "markdown": found.markdown, "json": found.json}[output]())
        for path in save or []:
            found.save(path)
        if plot is not None:
            plots.save(found, plot)
    except Unreachable as failure:
        raise CommandFailure(str(failure), ExitStatus.UNREACHABLE) from failure
    except BenchFailure as failure:
        raise CommandFailure(str(failure)) from failure


def as_typed() -> str:
    """As the user typed it, so that a result can be had again. Keys are left out."""
    shown = list(sys.argv[1:])
    for index, word in enumerate(shown):
        if word == "--api-key" and index + 1 < len(shown):
            shown[index + 1] = "..."
        elif word.startswith("--api-key="):
            shown[index] = "--api-key=..."
    return shlex.join(["aweigh", *shown])
