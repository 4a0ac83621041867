"""`aweigh bench quantization`: what each scheme weighs, loses and gains in speed.

Every scheme is really made: quantized, written, and loaded again as a server loads it.
"""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from aweigh_bench import machine
from aweigh_bench.bars import RULE, at_least, at_most
from aweigh_bench.failures import BenchFailure, Impossible
from aweigh_bench.progress import progress
from aweigh_bench.report import Bar, Cell, Curves, Report, Table

if TYPE_CHECKING:
    import torch

    from aweigh_quantize.calibration import Amount
    from aweigh_quantize.evaluation import Evaluation
    from aweigh_quantize.outcome import Outcome
    from aweigh_quantize.recipe import Recipe
    from aweigh_runtime.model.decoder import Decoder

MEGA = 1e6
BATCH = 8  # requests that are decoded together
PROMPT_TOKENS = 64
MOST_KL = {"int8": 0.005, "fp8": 0.015}  # nats per token, of 8-bit weights and activations
# Shares of a KL that must be closed: by GPTQ of what RTN leaves, by --recover of what GPTQ leaves.
GPTQ_CLOSES = {"gptq-4": 0.45, "gptq-3": 0.55}
LEAST_CLOSED = 0.5
ANYTHING = 1e-6  # the share where nothing more is expected than a lower KL
FEWEST_TEXTS = 6  # whose extremes hold the middle in 95 % of all cases: fewer have no interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    model: str
    directory: Path
    schemes: Sequence[str]
    amount: "Amount"
    perplexity: Sequence[Path]
    calibration: Sequence[Path] = ()  # files; none: the model's own texts
    loss: float | None = None  # nats per token that may be lost: the smallest scheme is named
    steps: int  # whose time is taken
    device: "torch.device"
    cache_dir: Path
    command: str


@dataclass(frozen=True, slots=True)
class Speed:
    """Of a loaded model."""

    memory: int  # bytes of weights
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Made:
    """One scheme, and what became of it."""

    word: str
    recipe: "Recipe"
    outcome: "Outcome"
    speed: Speed

    @property
    def loss(self) -> "Evaluation":
        """On the texts that were held out."""
        return self.outcome.loss


def flags_of(recipe: "Recipe") -> list[str]:
    """What `aweigh quantize` is told for a recipe: all that differs from the scheme's defaults."""
    plain = type(recipe)(scheme=recipe.scheme)
    found = ["--scheme", recipe.scheme]
    for field in fields(recipe):
        value, name = getattr(recipe, field.name), field.name.replace("_", "-")
        if value == getattr(plain, field.name):
            continue
        if field.name == "sparse":
            found += ["--sparse", "2:4"]
        elif isinstance(value, bool):
            found.append(f"--{name}" if value else f"--no-{name}")
        else:
            found += [f"--{name}", f"{value}"]
    return found


async def run(options: Options) -> Report:
    """Make one scheme after the other."""
    return await asyncio.to_thread(_run, options)


def _run(options: Options) -> Report:
    from aweigh_quantize.recipe import RecipeError
    from aweigh_quantize.spelling import recipe_of

    try:
        recipes = {word: recipe_of(word) for word in options.schemes}
    except RecipeError as error:
        raise Impossible(f"--schemes: {error}") from error
    dense = measure_speed(options.directory, options.device, options.steps)
    made = []
    with progress("schemes", len(recipes)) as advance:
        for word, recipe in recipes.items():
            made.append(make(options, word, recipe))
            advance(word)
    return _report(options, dense, made)


def make(options: Options, word: str, recipe: "Recipe") -> Made:
    """Quantize, write, load and time.

    Raises:
        BenchFailure: it cannot be made of this model.
    """
    from aweigh_quantize.display import Quiet
    from aweigh_quantize.failures import Refusal
    from aweigh_quantize.job import Job
    from aweigh_quantize.job import run as quantize
    from aweigh_quantize.tensor_file import CannotWrite
    from aweigh_runtime.failures import StartFailure

    with tempfile.TemporaryDirectory(prefix="aweigh-bench-") as folder:
        out = Path(folder) / word.replace(":", "")
        job = Job(
            model=options.model,
            directory=options.directory,
            recipe=recipe,
            out=out,
            amount=options.amount,
            calibration=options.calibration,
            perplexity=options.perplexity,
            device=options.device,
            cache_dir=options.cache_dir,
            command=options.command,
        )
        try:
            outcome = quantize(job, Quiet())
        except Refusal as error:
            raise Impossible(f"{word}: {error}") from error
        except (StartFailure, CannotWrite) as failure:
            raise BenchFailure(f"{word}: {failure}") from failure
        speed = measure_speed(out, options.device, options.steps)
        shutil.rmtree(out)
    return Made(word, recipe, outcome, speed)


def measure_speed(directory: Path, device: "torch.device", steps: int) -> Speed:
    """Load a model as a server does, and decode a few requests together."""
    from aweigh_runtime.engine.threads import use_threads
    from aweigh_runtime.model.load import Wish, load

    loaded = load(directory, Wish(max_model_len=None), device, lambda done, total: None)
    use_threads(device, loaded.weight_bytes)
    return Speed(loaded.weight_bytes, BATCH / _step_s(loaded.decoder, steps))


def _step_s(decoder: "Decoder", steps: int) -> float:
    """Median time of a step that decodes BATCH requests, on a GPU from graphs where it may be."""
    import torch

    from aweigh_runtime.model.cache import CacheFormat, KVCache
    from aweigh_runtime.model.chunks import Chunk
    from aweigh_runtime.model.stepping import recorded

    blocks_each = -(-(PROMPT_TOKENS + steps) // 16)
    kept = CacheFormat(decoder.dtype, decoder.dtype)
    cache = KVCache(decoder.config, BATCH * blocks_each, 16, kept, decoder.device)
    blocks = [range(i * blocks_each, (i + 1) * blocks_each) for i in range(BATCH)]
    generator = torch.Generator().manual_seed(0)
    size = (BATCH * PROMPT_TOKENS,)
    prompt = torch.randint(decoder.config.vocab_size, size, generator=generator)
    prompts = [Chunk(0, PROMPT_TOKENS, each) for each in blocks]
    step = recorded(decoder, cache, BATCH)
    tokens = step(prompt.to(decoder.device), prompts).argmax(-1)
    times = []
    for count in range(steps):
        started = time.perf_counter()
        chunks = [Chunk(PROMPT_TOKENS + count, 1, each) for each in blocks]
        tokens = step(tokens, chunks).argmax(-1)
        tokens.tolist()  # waits for the device
        times.append(time.perf_counter() - started)
    return median(times)


def _report(options: Options, dense: Speed, made: Sequence[Made]) -> Report:
    asked = [] if options.loss is None else [advice(options.model, made, options.loss)]
    columns = (
        "scheme", "MB on disk", "bits per weight", "MB in memory", "KL", "from", "to",
        "same token", "perplexity", "tokens/s", "made in s",
    )  # fmt: skip
    first = made[0].outcome
    rows: list[tuple[Cell, ...]] = [
        ("dense", first.sizes.dense / MEGA, 8.0 * first.sizes.dense_matrices
         / first.sizes.num_weights, dense.memory / MEGA, None, None, None, None,
         first.loss.dense_perplexity, dense.tokens_per_s, None)
    ]  # fmt: skip
    rows += [_row(each) for each in made]
    tables = [Table("Schemes", columns, rows)]
    tables += [_files(made)] if options.perplexity else []
    return Report(
        title="Quantization",
        command=options.command,
        model=options.model,
        machine=machine.describe(),
        tables=tables,
        bars=bars(made),
        notes=[
            f"KL: nats per token against the dense model, in fp32, over {first.loss.num_tokens:,} "
            f"tokens of {next(iter(first.losses))}, on which nothing is calibrated; from, to: an "
            "interval of 95 %, by documents. Bits per weight: of quantized matrices, with scales. "
            "MB in memory: computed.",
            f"{RULE} Fewer than {FEWEST_TEXTS} documents decide nothing.",
            f"tokens/s: {BATCH} requests decoded together in this process, the median of "
            f"{options.steps} steps, from files as they were written.",
            *asked,
        ],
        figures={"schemes": {each.word: _figures(each) for each in made}},
        curves=[_curves(made)],
    )


def _row(made: Made) -> tuple[Cell, ...]:
    sizes, kl = made.outcome.sizes, made.loss.kl
    return (
        made.word,
        sizes.written / MEGA,
        sizes.bits,
        made.speed.memory / MEGA,
        *(f"{value:.4f}" for value in (kl.value, kl.low, kl.high)),
        f"{made.loss.agreement.value:.4f}",
        made.loss.perplexity,
        made.speed.tokens_per_s,
        made.outcome.seconds,
    )


def _files(made: Sequence[Made]) -> Table:
    """Perplexity on the user's files."""
    names = list(made[0].outcome.losses)[1:]
    dense = [made[0].outcome.losses[name].dense_perplexity for name in names]
    rows: list[tuple[Cell, ...]] = [("dense", *dense)]
    for each in made:
        rows.append((each.word, *(each.outcome.losses[name].perplexity for name in names)))
    return Table("Perplexity on files", ("scheme", *names), rows)


def _figures(made: Made) -> dict[str, float]:
    sizes, kl = made.outcome.sizes, made.loss.kl
    return {
        "disk_bytes": sizes.written,
        "bits_per_weight": sizes.bits,
        "memory_bytes": made.speed.memory,
        "kl": kl.value,
        "kl_low": kl.low,
        "kl_high": kl.high,
        "agreement": made.loss.agreement.value,
        "perplexity": made.loss.perplexity,
        "tokens_per_s": made.speed.tokens_per_s,
    }


def _curves(made: Sequence[Made]) -> Curves:
    """A line for each scheme, from small to large."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for each in made:
        point = (each.outcome.sizes.written / MEGA, each.loss.kl.value)
        lines.setdefault(each.recipe.scheme, []).append(point)
    ordered = {name: sorted(points) for name, points in lines.items()}
    return Curves("Size against loss", "MB on disk", "KL in nats per token", ordered, True)


def advice(model: str, made: Sequence[Made], most: float) -> str:
    """Which scheme to take if so many nats per token may be lost, in a sentence.

    The smallest on disk of those whose loss is below that in 95 % of all cases: the upper end of
    the interval counts.
    """
    fitting = [each for each in made if each.loss.kl.high <= most]
    if not fitting:
        best = min(made, key=lambda each: each.loss.kl.high)
        return (
            f"No scheme loses at most {most:g} nats per token. {best.word} loses least, "
            f"{best.loss.kl}: allow more with --loss, or serve the dense model."
        )
    best = min(fitting, key=lambda each: each.outcome.sizes.written)
    return (
        f"The smallest scheme that loses at most {most:g} nats per token is {best.word}: "
        f"{best.loss.kl}, {best.outcome.sizes.written / MEGA:,.2f} MB. Make it: aweigh quantize "
        f"{model} {' '.join(flags_of(best.recipe))} -o FOLDER"
    )


def bars(made: Sequence[Made]) -> list[Bar]:
    """What should be reached, of the schemes that were made."""
    found: list[Bar] = []
    for each in made:
        recipe, kl = each.recipe, each.loss.kl
        most = MOST_KL.get(each.word)
        if most is not None:
            met = _judged(each, at_most(kl.low, kl.high, most))
            found.append(Bar(f"KL of {each.word}", f"<= {most:g}", str(kl), met))
        if recipe.recover:
            same = replace(recipe, recover=False)
            found += [_recovers(each, plain) for plain in made if plain.recipe == same]
        nearest = _nearest(each, made) if recipe.scheme in ("gptq", "awq") else None
        if nearest is not None:
            found.append(_better(each, nearest))
    return found


def _judged(made: Made, verdict: bool | None) -> bool | None:
    return None if len(made.loss.documents) < FEWEST_TEXTS else verdict


def _recovers(made: Made, plain: Made) -> Bar:
    share, met = _closed(made, plain, LEAST_CLOSED)
    what = f"{made.word} closes what {plain.word} leaves"
    return Bar(what, f">= {100 * LEAST_CLOSED:.0f} %", share, met)


def _closed(made: Made, before: Made, least: float) -> tuple[str, bool | None]:
    """How much of another KL a scheme does not lose, and whether that is so large a share."""
    less, whole = made.loss.excess(before.loss), max(before.loss.kl.value, 1e-9)
    value, low, high = (each / whole for each in (less.value, less.low, less.high))
    shares = f"{100 * value:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
    return f"{less} nats per token, {shares}", _judged(made, at_least(low, high, least))


def _nearest(of: Made, made: Sequence[Made]) -> Made | None:
    """The same grid, rounded to the nearest."""
    for each in made:
        mine, other = of.recipe, each.recipe
        grid = (mine.bits, mine.group_size, mine.is_symmetric, mine.sparse, mine.budget)
        same = (other.bits, other.group_size, other.is_symmetric, other.sparse, other.budget)
        if other.scheme == "rtn" and grid == same:
            return each
    return None


def _better(made: Made, nearest: Made) -> Bar:
    least = GPTQ_CLOSES.get(made.word)
    share, met = _closed(made, nearest, least or ANYTHING)
    wanted = f"KL lower by {100 * least:.0f} %" if least else "KL lower"
    return Bar(f"{made.word} loses less than {nearest.word}", wanted, share, met)
