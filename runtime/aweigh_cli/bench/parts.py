"""Measures of parts: quantized weights, decisions, the load client."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from aweigh_cli.arguments import as_typed
from aweigh_cli.bench.options import (
    CacheOption,
    Job,
    ModelArgument,
    SeedOption,
    expect_runtime,
    measuring,
    sizes_of,
)
from aweigh_cli.failures import CommandFailure
from aweigh_cli.model_making import DEFAULT_SCHEMES, chosen, fetched, readable
from aweigh_cli.serve import default_cache_dir

MAX_POOL = 1 << 28  # blocks: more have no room for their names


@measuring(draws=True)
def quantization(  # noqa: PLR0913 - see `serve`
    model: ModelArgument,
    *,
    schemes: Annotated[
        str,
        typer.Option(help="Words as gptq-3-g64, fp8-block, gptq-4-2:4: benchmarks/README.md."),
    ] = DEFAULT_SCHEMES,
    num_texts: Annotated[int, typer.Option(min=1, help="As in `aweigh quantize`.")] = 128,
    text_tokens: Annotated[int, typer.Option(min=2, help="As in `aweigh quantize`.")] = 256,
    perplexity: Annotated[
        list[Path] | None, typer.Option(help="As in `aweigh quantize`; repeatable.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of decoding, whose time is taken.")] = 64,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="As in `aweigh quantize`.")
    ] = "auto",
    cache_dir: CacheOption = None,
    seed: SeedOption = 0,
) -> Job:
    """Quantize a model with many schemes: what each weighs, loses, and how fast it is."""
    from aweigh_bench import quantization as made
    from aweigh_quantize.calibration import Amount, TooShort
    from aweigh_runtime.failures import StartFailure

    expect_runtime()
    cache = cache_dir or default_cache_dir()
    try:
        amount = Amount(num_texts, text_tokens, seed)
        directory = fetched(model, None, cache)
    except TooShort as failure:
        raise typer.BadParameter(str(failure)) from failure
    except StartFailure as failure:
        raise CommandFailure(str(failure), failure.exit_code) from failure
    options = made.Options(
        model=model,
        directory=directory,
        schemes=schemes.split(","),
        amount=amount,
        perplexity=readable(perplexity, "--perplexity"),
        steps=steps,
        device=chosen(device),
        cache_dir=cache,
        command=as_typed(),
    )
    return Job(made.run, options)


@measuring(draws=False)
def scheduler(
    running: Annotated[int, typer.Option(min=1, help="Requests in a step.")] = 256,
    pools: Annotated[str, typer.Option(help="Blocks in the pool.")] = "1000,10000,100000,1000000",
    steps: Annotated[int, typer.Option(min=10, help="Steps for each row.")] = 1000,
) -> Job:
    """Measure what deciding a step costs, without a model."""
    from aweigh_bench import scheduler as deciding

    options = deciding.Options(
        running=running, pools=sizes_of(pools, "--pools", MAX_POOL), steps=steps, command=as_typed()
    )
    return Job(deciding.run, options)


@measuring(draws=True)
def scaling(
    traces: Annotated[
        str | None, typer.Option(help="Some of them, as shared,ramp. (default: all)")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Of each trace.")] = 3,
    start_seconds: Annotated[
        float, typer.Option(min=1, max=3600, help="Until a new pod serves.")
    ] = 75.0,
) -> Job:
    """Play traffic against modelled pods: the operator's scaling law beside the rules of others.

    Prints late requests, pod-hours, changes of direction and warm tokens lost. It serves nothing
    and takes about a second for each trace, rule and seed.
    """
    from aweigh_bench.scaling import command as played
    from aweigh_bench.scaling.pod import Machine

    names = [] if traces is None else [name.strip() for name in traces.split(",")]
    options = played.Options(
        traces=names, seeds=seeds, machine=Machine(start_s=start_seconds), command=as_typed()
    )
    return Job(played.run, options)


@measuring(draws=False)
def client(
    streams: Annotated[int, typer.Option(min=1, help="Answers at once.")] = 64,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to read.")] = 5.0,
) -> Job:
    """Measure the load client itself: how many events per second it can read."""
    from aweigh_bench import ceiling

    options = ceiling.Options(streams=streams, seconds=seconds, command=as_typed())
    return Job(ceiling.run, options)
