"""`aweigh bench serve`: traffic for any OpenAI endpoint."""

from math import isfinite
from pathlib import Path
from typing import Annotated, Literal

import typer

from aweigh_api import names
from aweigh_cli.arguments import as_typed
from aweigh_cli.bench.options import (
    Job,
    SeedOption,
    VocabularyOption,
    lengths_of,
    limit_of,
    measuring,
)

DEFAULT_URL = f"http://127.0.0.1:{names.HTTP_PORT}/v1"


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
