"""What the commands of `aweigh bench` share: options, how they are written, what comes out."""

import asyncio
import inspect
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from aweigh_cli.arguments import MAX_SEED
from aweigh_cli.failures import CommandFailure, ExitStatus
from aweigh_cli.serve import default_cache_dir

if TYPE_CHECKING:
    from aweigh_bench.questions import Choice
    from aweigh_bench.report import Report
    from aweigh_bench.subject import Setting

NEEDS = ("aiohttp", "msgspec")
SERVER_NEEDS = ("torch", "tokenizers", "jinja2", "llguidance")
MAX_BATCH = 4096  # requests that a server computes together, at most
MAX_TOKENS = 10_000_000  # that any model takes
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
ShapeOption = Annotated[
    str | None,
    typer.Option(
        help="A model of this shape, as llama-3.1-8b, with random weights, instead of MODEL."
    ),
]
RandomOption = Annotated[
    bool,
    typer.Option(
        "--random-weights",
        help="Make all weights up instead of reading any. Those of a --shape always are.",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(min=1, max=1024, help="Of torch on a CPU. (default: the server's)"),
]
FlagsOption = Annotated[
    list[str] | None,
    typer.Option("--serve-flag", help="A flag for `aweigh serve`: --serve-flag=--dtype=fp32."),
]
CacheOption = Annotated[
    Path | None, typer.Option(envvar="AWEIGH_CACHE_DIR", help="As for `aweigh serve`.")
]
OutputOption = Annotated[Format, typer.Option(help="What is printed.")]
SaveOption = Annotated[
    list[Path] | None, typer.Option(help="File for the result, .json or .md; repeatable.")
]
PlotOption = Annotated[Path | None, typer.Option(help="PNG file for diagrams.")]
SeedOption = Annotated[
    int, typer.Option(min=0, max=MAX_SEED, help="Gives the same requests again.")
]
VocabularyOption = Annotated[int, typer.Option(min=257, help="Token ids are drawn below this one.")]


@dataclass(frozen=True, slots=True)
class Job:
    """A measurement that a command line asks for."""

    run: "Callable[[Any], Coroutine[None, None, Report]]"
    options: Any  # what `run` takes


def lengths_of(text: str, flag: str) -> tuple[int, int]:
    """`128` or `32:512`, as given to a flag."""
    low, _, high = text.partition(":")
    try:
        length = int(low), int(high or low)
    except ValueError:
        length = 0, 0
    if not 1 <= length[0] <= length[1] <= MAX_TOKENS:
        raise typer.BadParameter(
            f"{flag} is {text}; expected tokens, as 128 or 32:512, at most {MAX_TOKENS:,}"
        )
    return length


def length_of(text: str, flag: str, least: int) -> int:
    """`128`: no range."""
    low, high = lengths_of(text, flag)
    if low != high or low < least:
        raise typer.BadParameter(f"{flag} is {text}; expected one number, at least {least}")
    return low


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


def batches_of(text: str) -> list[int]:
    """Requests at once, as `1,2,4`, in rising order."""
    return _numbers(text, "--batches", 1, MAX_BATCH)


def choices_of(text: str) -> "list[Choice]":
    """How tokens are chosen, as `sampled,seeded`, each once."""
    from aweigh_bench.questions import Choice

    known: dict[str, Choice] = {each: each for each in get_args(Choice)}
    names = dict.fromkeys(text.split(","))
    if not names.keys() <= known.keys():
        raise typer.BadParameter(
            f"--choice is {text!r}; expected one or several of {', '.join(known)}"
        )
    return [known[name] for name in names]


def sizes_of(text: str, flag: str, most: int) -> list[int]:
    """`1,2,4`, in rising order, as given to a flag."""
    return _numbers(text, flag, 1, most)


def percents_of(text: str, flag: str) -> list[int]:
    """`0,50,90`, in rising order, as given to a flag."""
    return _numbers(text, flag, 0, 99)


def shares_of(text: str, flag: str) -> list[int]:
    """`0,60,100`, in rising order, as given to a flag."""
    return _numbers(text, flag, 0, 100)


def _numbers(text: str, flag: str, low: int, high: int) -> list[int]:
    try:
        numbers = sorted({int(number) for number in text.split(",")})
    except ValueError:
        numbers = []
    if not numbers or not low <= numbers[0] <= numbers[-1] <= high:
        raise typer.BadParameter(
            f"{flag} is {text}; expected whole numbers from {low} to {high}, such as {low},64"
        )
    return numbers


def expect_installed() -> None:
    """The extra `cli` alone brings these commands, but not what they run."""
    _expect(NEEDS, "measuring", "bench")


def expect_runtime() -> None:
    """What loads a model in this process."""
    _expect(SERVER_NEEDS, "loading a model", "runtime")


def _expect(packages: tuple[str, ...], what: str, extra: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise CommandFailure(
            f"{what} needs {', '.join(missing)}, not installed here; expected the extra `{extra}`: "
            f"install aweigh[{extra}]"
        )


def measuring(*, draws: bool) -> Callable[[Callable[..., Job]], Callable[..., None]]:
    """Give a command the options for its report, and carry out the job that it returns.

    Args:
        draws: there are diagrams in the report.
    """

    def decorate(command: Callable[..., Job]) -> Callable[..., None]:
        def shared(
            *,
            output: OutputOption = "text",
            save: SaveOption = None,
            plot: PlotOption = None,
            **own: Any,
        ) -> None:
            _carry_out(command(**own), output, save or [], plot)

        joined = _joined(command, shared)
        return joined if draws else _without(joined, "plot")

    return decorate


def serving(
    *, anywhere: bool, shapes: bool = False
) -> Callable[[Callable[..., Job]], Callable[..., Job]]:
    """Give a command the options for its server, and call it with the setting they make.

    Args:
        anywhere: a server that runs already may be measured, too, and a model without weights.
        shapes: of these two, the model without weights.
    """

    def decorate(command: Callable[..., Job]) -> Callable[..., Job]:
        def shared(  # noqa: PLR0913 - options
            *,
            model: OptionalModel = None,
            base_url: UrlOption = None,
            shape: ShapeOption = None,
            random_weights: RandomOption = False,
            threads: ThreadsOption = None,
            serve_flag: FlagsOption = None,
            cache_dir: CacheOption = None,
            vocabulary: VocabularyOption = 8000,
            seed: SeedOption = 0,
            **own: Any,
        ) -> Job:
            flags = (*(serve_flag or ()), *["--random-weights"] * random_weights)
            given = _setting(model, base_url, threads, flags, cache_dir, vocabulary, seed)
            if shape is not None:
                _expect(SERVER_NEEDS, "starting a server", "runtime")
            return command(replace(given, shape=shape), **own)

        joined = _joined(command, shared)
        if anywhere:
            return joined
        return _without(joined, "base_url") if shapes else _for_own_server(joined)

    return decorate


def _setting(  # noqa: PLR0913 - the options above
    model: str | None,
    base_url: str | None,
    threads: int | None,
    flags: tuple[str, ...],
    cache_dir: Path | None,
    vocabulary: int,
    seed: int,
) -> "Setting":
    from aweigh_bench.subject import Setting

    if model is not None:
        _expect(SERVER_NEEDS, "starting a server", "runtime")
    return Setting(
        model=model,
        base_url=base_url,
        api_key=os.environ.get("OPENAI_API_KEY"),
        flags=flags,
        cache_dir=cache_dir or default_cache_dir(),
        threads=threads,
        vocabulary=vocabulary,
        seed=seed,
    )


def _joined(command: Callable[..., Any], shared: Callable[..., Any]) -> Callable[..., Any]:
    """`shared` under the command's name and help, with the options of both."""
    parameters = {
        name: parameter.replace(kind=parameter.KEYWORD_ONLY)
        for function in (command, shared)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD and name != "setting"
    }
    return _with_parameters(wraps(command)(shared), parameters)


def _for_own_server(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same command, but MODEL must be given."""
    for name in ("base_url", "shape", "random_weights"):
        command = _without(command, name)
    parameters = dict(inspect.signature(command).parameters)
    model = parameters["model"].replace(annotation=ModelArgument, default=inspect.Parameter.empty)
    return _with_parameters(command, parameters | {"model": model})


def _without(command: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The same command, less one option."""
    parameters = dict(inspect.signature(command).parameters)
    del parameters[name]
    return _with_parameters(command, parameters)


def _with_parameters(
    command: Callable[..., Any], parameters: dict[str, inspect.Parameter]
) -> Callable[..., Any]:
    """The command line is built from these two attributes."""
    described: Any = command
    described.__signature__ = inspect.Signature(list(parameters.values()))
    described.__annotations__ = {name: each.annotation for name, each in parameters.items()}
    return command


def _carry_out(job: Job, output: Format, save: list[Path], plot: Path | None) -> None:
    """Run a measurement and hand out its report; what cannot be handed out is not measured."""
    from aweigh_bench import plots, report

    with _explained():
        for path in save:
            report.expect_writable("--save", path)
        if plot is not None:
            plots.expect_possible(plot)
        found = asyncio.run(job.run(job.options))
        typer.echo({"text": found.text, "markdown": found.markdown, "json": found.json}[output]())
        for path in save:
            found.save(path)
        if plot is not None:
            plots.save(found, plot)


@contextmanager
def _explained() -> Iterator[None]:
    """What goes wrong becomes the command's own failure."""
    from aweigh_bench.failures import BenchFailure, Impossible, Unreachable
    from aweigh_runtime.failures import StartFailure

    try:
        yield
    except Unreachable as failure:
        raise CommandFailure(str(failure), ExitStatus.UNREACHABLE) from failure
    except Impossible as failure:
        raise CommandFailure(str(failure), ExitStatus.BAD_INPUT) from failure
    except StartFailure as failure:
        raise CommandFailure(str(failure), failure.exit_code) from failure
    except BenchFailure as failure:
        raise CommandFailure(str(failure)) from failure
