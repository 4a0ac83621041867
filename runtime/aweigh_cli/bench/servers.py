"""Measures of whole servers, which are started for them."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from aweigh_cli.arguments import as_typed
from aweigh_cli.bench.options import (
    MAX_BATCH,
    MAX_TOKENS,
    Job,
    batches_of,
    choices_of,
    length_of,
    lengths_of,
    measuring,
    percents_of,
    serving,
    shares_of,
    sizes_of,
)

if TYPE_CHECKING:
    from aweigh_bench.subject import Setting


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


@measuring(draws=True)
@serving(anywhere=False, shapes=True)
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
    pair_concurrency: Annotated[
        int, typer.Option(min=1, max=MAX_BATCH, help="Of those, at once.")
    ] = 8,
    pair_input_tokens: Annotated[int, typer.Option(min=1, help="Of their prompts.")] = 250,
    pair_output_tokens: Annotated[int, typer.Option(min=2, help="Of their answers.")] = 32,
    pair_starts: Annotated[
        int, typer.Option(min=1, help="Of both servers in either order, for all pairs.")
    ] = 3,
    cost_only: Annotated[
        bool, typer.Option("--cost-only", help="Measure caching on and off alone.")
    ] = False,
    small_memory: Annotated[
        str, typer.Option(help="KV memory in which prefixes evict each other.")
    ] = "16Mi",
    num_prefixes: Annotated[int, typer.Option(min=2, help="Prefixes that do so.")] = 16,
) -> Job:
    """Measure what shared prefixes save, what evictions lose, and what caching costs."""
    from aweigh_bench import prefix_caching as prefixes
    from aweigh_bench.caching_cost import Work

    options = prefixes.Options(
        setting=setting,
        shares=percents_of(shares, "--shares"),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        num_requests=num_requests,
        work=Work(
            pairs=pairs,
            pair_requests=pair_requests,
            concurrency=pair_concurrency,
            prompt_tokens=pair_input_tokens,
            answer_tokens=pair_output_tokens,
            starts=pair_starts,
        ),
        cost_only=cost_only,
        small_memory=small_memory,
        num_prefixes=num_prefixes,
        command=as_typed(),
    )
    return Job(prefixes.run, options)


@measuring(draws=True)
@serving(anywhere=False, shapes=True)
def speculation(  # noqa: PLR0913 - see `serve`
    setting: "Setting",
    *,
    draft_model: Annotated[
        list[str] | None, typer.Option(help="As in `aweigh serve`; repeatable.")
    ] = None,
    draft_shape: Annotated[
        str | None,
        typer.Option(help="A draft of this shape, as llama-3.2-1b, for a model of --shape."),
    ] = None,
    draft_quantization: Annotated[
        Literal["auto", "fp8", "int8", "int4"],
        typer.Option(help="Of the weights of --draft-shape, with --replay-acceptance."),
    ] = "auto",
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
        str,
        typer.Option(
            help="greedy (the likeliest tokens), sampled (drawn at temperature 1), seeded (with a "
            "seed, too), or several, as sampled,seeded: side by side on the same servers."
        ),
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
                draft_shape=draft_shape,
                draft_quantization=draft_quantization,
                max_draft_tokens=sizes_of(max_draft_tokens, "--max-draft-tokens", MAX_DRAFT_TOKENS),
                batches=batches_of(batches),
                input_tokens=lengths_of(input_tokens, "--input-tokens"),
                output_tokens=output_tokens,
                pairs=pairs,
                command=as_typed(),
            ),
        )
    if draft_quantization != "auto":
        raise typer.BadParameter(
            f"--draft-quantization is {draft_quantization}, and servers make up dense drafts; "
            "expected --replay-acceptance beside it"
        )
    options = drafts.Options(
        setting=setting,
        draft_models=draft_model or [],
        draft_shape=draft_shape,
        lookup=method == "ngram",
        wrong=wrong,
        max_draft_tokens=sizes_of(max_draft_tokens, "--max-draft-tokens", MAX_DRAFT_TOKENS),
        batches=batches_of(batches),
        input_tokens=lengths_of(input_tokens, "--input-tokens"),
        output_tokens=output_tokens,
        pairs=pairs,
        starts=starts,
        choices=choices_of(choice),
        questions=questions,
        command=as_typed(),
    )
    return Job(drafts.run, options)


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
