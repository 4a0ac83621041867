"""`aweigh bench`: the commands that measure."""

import os
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from aweigh_api import names
from aweigh_cli.arguments import Command
from aweigh_cli.bench_options import (
    DEFAULT_SCHEMES,
    MAX_TOKENS,
    CacheOption,
    Job,
    ModelArgument,
    SeedOption,
    VocabularyOption,
    as_typed,
    batches_of,
    expect_installed,
    expect_runtime,
    length_of,
    lengths_of,
    limit_of,
    measuring,
    percents_of,
    serving,
    shares_of,
    sizes_of,
)
from aweigh_cli.failures import CommandFailure
from aweigh_cli.serve import default_cache_dir

if TYPE_CHECKING:
    from aweigh_bench.subject import Setting

MAX_POOL = 1 << 28  # blocks: more have no room for their names
DEFAULT_URL = f"http://127.0.0.1:{names.HTTP_PORT}/v1"

app = typer.Typer(
    help="Measure servers of language models.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    callback=expect_installed,
)


@app.command(cls=Command)
@measuring(draws=True)
def serve(  # noqa: PLR0913 - the options of a load client
    base_url: Annotated[
        str, typer.Option(envvar="OPENAI_BASE_URL", help="URL of an OpenAI API.")
    ] = DEFAULT_URL,
    *,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="OPENAI_API_KEY", help="Its key.", show_envvar=True),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Name of the model. (default: the endpoint's first)")
    ] = None,
    endpoint: Annotated[
        Literal["chat", "completions"], typer.Option(help="Which route is asked.")
    ] = "completions",
    num_requests: Annotated[
        int, typer.Option("--num-requests", "--num-prompts", min=1, help="Requests to measure.")
    ] = 200,
    request_rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="Requests per second. (default: all at once)"),
    ] = None,
    burstiness: Annotated[
        float, typer.Option(min=0.01, help="Of arrivals: 1 is Poisson, less comes in bursts.")
    ] = 1.0,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", "--max-concurrency", min=1, help="Most requests open."),
    ] = None,
    traffic: Annotated[
        Literal["random", "shared-prefix", "sharegpt"], typer.Option(help="What is asked.")
    ] = "random",
    input_tokens: Annotated[
        str, typer.Option(help="random: tokens of a prompt, 128 or 32:512.")
    ] = "128:512",
    output_tokens: Annotated[
        str, typer.Option(help="random, shared-prefix: tokens of an answer.")
    ] = "64:128",
    num_prefixes: Annotated[
        int, typer.Option(min=1, help="shared-prefix: how many different ones.")
    ] = 10,
    prefix_tokens: Annotated[int, typer.Option(min=1, help="shared-prefix: length of one.")] = 256,
    suffix_tokens: Annotated[
        int, typer.Option(min=1, help="shared-prefix: tokens that follow it.")
    ] = 64,
    sharegpt_file: Annotated[
        Path | None,
        typer.Option(help="sharegpt: JSON with conversations. (default: lengths like ShareGPT's)"),
    ] = None,
    prompts: Annotated[
        Literal["ids", "text"] | None,
        typer.Option(help="How prompts are sent. (default: ids; text to a chat)"),
    ] = None,
    vocabulary: VocabularyOption = 8000,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Answers have exactly the tokens asked for.")
    ] = False,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="0 is greedy.")] = 0.0,
    num_warmups: Annotated[int, typer.Option(min=0, help="Requests before the measured ones.")] = 2,
    goodput: Annotated[
        list[str] | None,
        typer.Option(help="Limit in ms for a good answer: ttft:200, itl:50, e2e:2000; repeatable."),
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for one request.")] = 600.0,
    detailed: Annotated[
        bool, typer.Option("--detailed", help="Keep each request's times in JSON.")
    ] = False,
    seed: SeedOption = 0,
) -> Job:
    """Measure an OpenAI endpoint under traffic.

    Prints throughput, and mean, p50, p90 and p99 of time to first token, inter-token latency, time
    per output token and end to end, all as a client sees them.
    """
    from aweigh_bench import serve as load

    options = load.Options(
        target=load.Target(
            base_url=base_url,
            api_key=api_key,
            model=model,
            route=endpoint,
            temperature=temperature,
            ignore_eos=ignore_eos,
            timeout_s=timeout,
        ),
        traffic=load.Traffic(
            kind=traffic,
            num_requests=num_requests,
            num_warmups=num_warmups,
            input_tokens=lengths_of(input_tokens, "--input-tokens"),
            output_tokens=lengths_of(output_tokens, "--output-tokens"),
            num_prefixes=num_prefixes,
            prefix_tokens=prefix_tokens,
            suffix_tokens=suffix_tokens,
            file=sharegpt_file,
            as_text=(prompts or ("text" if endpoint == "chat" else "ids")) == "text",
            vocabulary=vocabulary,
            seed=seed,
        ),
        pace=load.Pace(
            request_rate=request_rate if request_rate and isfinite(request_rate) else None,
            burstiness=burstiness,
            concurrency=concurrency,
        ),
        limits_ms=dict(map(limit_of, goodput or [])),
        detailed=detailed,
        command=as_typed(),
    )
    return Job(load.run, options)


@app.command(cls=Command)
@measuring(draws=True)
@serving(anywhere=True)
def throughput(  # noqa: PLR0913 - see `serve`
    setting: "Setting",
    *,
    against: Annotated[
        Literal["transformers"] | None,
        typer.Option(help="Compute the same prompts with its generate, in interleaved pairs."),
    ] = None,
    batches: Annotated[
        str | None,
        typer.Option(help="Requests at once. (default: 1,2,4,8,16,32,64; --against: 1,32)"),
    ] = None,
    input_tokens: Annotated[
        str | None, typer.Option(help="Of a prompt. (default: 64; --against: 32:512)")
    ] = None,
    output_tokens: Annotated[
        str | None, typer.Option(help="Of an answer. (default: 128; --against: 32:512)")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Bursts of each size.")] = 3,
    pairs: Annotated[int, typer.Option(min=1, max=1000, help="--against: of each size.")] = 30,
) -> Job:
    """Measure tokens per second by number of requests at once.

    Starts `aweigh serve MODEL` on this machine for it, unless --base-url is given.
    """
    from aweigh_bench import against as comparison
    from aweigh_bench import throughput as growth

    if against is None:
        growing = growth.Options(
            setting=setting,
            batches=batches_of(batches or "1,2,4,8,16,32,64"),
            input_tokens=lengths_of(input_tokens or "64", "--input-tokens"),
            output_tokens=length_of(output_tokens or "128", "--output-tokens", 2),
            rounds=rounds,
            command=as_typed(),
        )
        return Job(growth.run, growing)
    threads = setting.threads or len(os.sched_getaffinity(0))
    compared = comparison.Options(
        setting=replace(setting, threads=threads),
        threads=threads,
        batches=batches_of(batches or "1,32"),
        input_tokens=lengths_of(input_tokens or "32:512", "--input-tokens"),
        output_tokens=lengths_of(output_tokens or "32:512", "--output-tokens"),
        pairs=pairs,
        command=as_typed(),
    )
    return Job(comparison.run, compared)


@app.command(cls=Command)
@measuring(draws=True)
@serving(anywhere=True)
def latency(
    setting: "Setting",
    *,
    lengths: Annotated[str, typer.Option(help="Tokens of prompts.")] = "16,64,256,1024",
    output_tokens: Annotated[int, typer.Option(min=2, help="Of an answer.")] = 32,
    iterations: Annotated[int, typer.Option(min=1, help="Requests of each length.")] = 20,
) -> Job:
    """Measure one request at a time, for longer and longer prompts.

    Starts `aweigh serve MODEL` on this machine for it, unless --base-url is given.
    """
    from aweigh_bench import latency as single

    options = single.Options(
        setting=setting,
        lengths=sizes_of(lengths, "--lengths", MAX_TOKENS),
        output_tokens=output_tokens,
        iterations=iterations,
        command=as_typed(),
    )
    return Job(single.run, options)


@app.command("prefix-caching", cls=Command)
@measuring(draws=True)
@serving(anywhere=False)
def prefix_caching(  # noqa: PLR0913 - see `serve`
    setting: "Setting",
    *,
    shares: Annotated[
        str, typer.Option(help="Percent of a prompt that requests share.")
    ] = "0,25,50,75,90,95",
    prompt_tokens: Annotated[int, typer.Option(min=64, help="Of a prompt.")] = 1000,
    output_tokens: Annotated[int, typer.Option(min=2, help="Of an answer.")] = 8,
    num_requests: Annotated[int, typer.Option(min=2, help="For each share.")] = 40,
    pairs: Annotated[
        int, typer.Option(min=0, max=1000, help="With caching on and off, without a hit.")
    ] = 30,
    pair_requests: Annotated[
        int, typer.Option(min=1, help="To each of the two servers in a pair.")
    ] = 64,
    small_memory: Annotated[
        str, typer.Option(help="KV memory in which prefixes evict each other.")
    ] = "16Mi",
    num_prefixes: Annotated[int, typer.Option(min=2, help="Prefixes that do so.")] = 16,
) -> Job:
    """Measure what shared prefixes save, what evictions lose, and what caching costs."""
    from aweigh_bench import prefix_caching as prefixes

    options = prefixes.Options(
        setting=setting,
        shares=percents_of(shares, "--shares"),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        num_requests=num_requests,
        pairs=pairs,
        pair_requests=pair_requests,
        small_memory=small_memory,
        num_prefixes=num_prefixes,
        command=as_typed(),
    )
    return Job(prefixes.run, options)


@app.command(cls=Command)
@measuring(draws=True)
@serving(anywhere=False)
def speculation(  # noqa: PLR0913 - see `serve`
    setting: "Setting",
    *,
    draft_model: Annotated[
        list[str] | None, typer.Option(help="As in `aweigh serve`; repeatable.")
    ] = None,
    method: Annotated[
        Literal["draft", "ngram"], typer.Option("--speculation", help="As in `aweigh serve`.")
    ] = "draft",
    wrong: Annotated[
        bool, typer.Option("--wrong", help="Give the draft random weights: what is it to cost?")
    ] = False,
    replay_acceptance: Annotated[
        str | None,
        typer.Option(
            help="Percents, as 0,60,80: draft recorded answers of which so many tokens are right."
        ),
    ] = None,
    choice: Annotated[
        Literal["greedy", "sampled", "seeded"],
        typer.Option(help="The likeliest tokens, or drawn at temperature 1, or with a seed, too."),
    ] = "greedy",
    max_draft_tokens: Annotated[str, typer.Option(help="Most tokens of a draft.")] = "8",
    input_tokens: Annotated[
        str, typer.Option(help="Of random prompts, for models without questions.")
    ] = "64",
    batches: Annotated[str, typer.Option(help="Requests at once.")] = "1,4,16,64",
    output_tokens: Annotated[int, typer.Option(min=2, help="Most of an answer.")] = 64,
    pairs: Annotated[int, typer.Option(min=1, max=1000, help="Of each size.")] = 12,
    starts: Annotated[
        int,
        typer.Option(min=1, max=100, help="Of the servers: two alike differ by some percent."),
    ] = 1,
    questions: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="One in each line. (default: a built-in model's)"
        ),
    ] = None,
) -> Job:
    """Measure what drafts gain, by requests at once, beside a server without them."""
    from aweigh_api.speculation import MAX_DRAFT_TOKENS
    from aweigh_bench import replay
    from aweigh_bench import speculation as drafts

    if replay_acceptance is not None:
        if method == "ngram" or wrong or questions is not None or choice != "greedy":
            raise typer.BadParameter(
                "--replay-acceptance drafts recorded answers to random prompts; expected no "
                "--speculation ngram, --wrong, --choice or --questions beside it"
            )
        return Job(
            replay.run,
            replay.Options(
                setting=setting,
                acceptance_percents=shares_of(replay_acceptance, "--replay-acceptance"),
                draft_models=draft_model or [],
                max_draft_tokens=sizes_of(max_draft_tokens, "--max-draft-tokens", MAX_DRAFT_TOKENS),
                batches=batches_of(batches),
                input_tokens=lengths_of(input_tokens, "--input-tokens"),
                output_tokens=output_tokens,
                pairs=pairs,
                command=as_typed(),
            ),
        )
    options = drafts.Options(
        setting=setting,
        draft_models=draft_model or [],
        lookup=method == "ngram",
        wrong=wrong,
        max_draft_tokens=sizes_of(max_draft_tokens, "--max-draft-tokens", MAX_DRAFT_TOKENS),
        batches=batches_of(batches),
        input_tokens=lengths_of(input_tokens, "--input-tokens"),
        output_tokens=output_tokens,
        pairs=pairs,
        starts=starts,
        choice=choice,
        questions=questions,
        command=as_typed(),
    )
    return Job(drafts.run, options)


@app.command(cls=Command)
@measuring(draws=False)
@serving(anywhere=False)
def memory(
    setting: "Setting",
    *,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once under load.")] = 32,
    input_tokens: Annotated[int, typer.Option(min=1, help="Of a prompt.")] = 256,
    output_tokens: Annotated[int, typer.Option(min=2, help="Of an answer.")] = 64,
) -> Job:
    """Measure what a model takes: weights, KV per token, each process at rest and at its peak."""
    from aweigh_bench import memory as taken

    options = taken.Options(
        setting=setting,
        concurrency=concurrency,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        command=as_typed(),
    )
    return Job(taken.run, options)


@app.command(cls=Command)
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
    from aweigh_cli.quantize import chosen, fetched, readable
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


@app.command(cls=Command)
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


@app.command(cls=Command)
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


@app.command(cls=Command)
@measuring(draws=False)
def client(
    streams: Annotated[int, typer.Option(min=1, help="Answers at once.")] = 64,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to read.")] = 5.0,
) -> Job:
    """Measure the load client itself: how many events per second it can read."""
    from aweigh_bench import ceiling

    options = ceiling.Options(streams=streams, seconds=seconds, command=as_typed())
    return Job(ceiling.run, options)
