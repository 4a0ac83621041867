"""`aweigh quantize`: a dense model becomes a quantized one, in a format that others read, too."""

import asyncio
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from aweigh_cli.arguments import MAX_SEED, as_typed, given
from aweigh_cli.failures import CommandFailure, ExitStatus
from aweigh_cli.model_making import DEFAULT_SCHEMES, chosen, explained, fetched, readable
from aweigh_cli.serve import default_cache_dir

if TYPE_CHECKING:
    import torch

    from aweigh_quantize.calibration import Amount
    from aweigh_quantize.outcome import Outcome

COMPARED = (
    "model", "compare", "loss", "calibration", "perplexity", "num_texts", "text_tokens", "seed",
    "device", "revision", "cache_dir",
)  # fmt: skip
"""Options that a comparison takes."""
STEPS = 64  # of decoding, whose time is taken


def quantize(  # noqa: PLR0913 - one parameter for each field of Recipe, and the texts
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A folder, or a URI as for `aweigh serve`."),
    ],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to make.", show_default=False)
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Make nothing: try many schemes, and name the one to take."),
    ] = False,
    loss: Annotated[
        float,
        typer.Option(min=0, help="--compare: nats per token that may be lost, at most."),
    ] = 0.02,
    scheme: Annotated[
        Literal["rtn", "gptq", "awq", "int8", "fp8", "nvfp4"],
        typer.Option(
            help="gptq, awq, rtn: small weights. int8, fp8: 8 bits, activations as well. nvfp4."
        ),
    ] = "gptq",
    bits: Annotated[int, typer.Option(help="gptq, rtn: 2, 3, 4 or 8.")] = 4,
    group_size: Annotated[
        int,
        typer.Option(help="Weights that share a scale; -1: a whole row. With --budget the most."),
    ] = 128,
    symmetric: Annotated[
        bool | None,
        typer.Option(help="Without zero points. (default: all but awq)", show_default=False),
    ] = None,
    act_order: Annotated[
        bool, typer.Option(help="gptq: the columns that matter most first.")
    ] = True,
    static_groups: Annotated[
        bool, typer.Option(help="gptq: groups are of neighbours; else serving is slower.")
    ] = True,
    damping: Annotated[float, typer.Option(help="gptq: share of the mean diagonal.")] = 0.01,
    sparse: Annotated[
        Literal["2:4"] | None, typer.Option(help="gptq, rtn: drop two weights of four.")
    ] = None,
    granularity: Annotated[
        Literal["channel", "tensor", "block"], typer.Option(help="fp8: what shares a scale.")
    ] = "channel",
    activations: Annotated[
        Literal["token", "static", "none"] | None,
        typer.Option(help="int8, fp8, nvfp4: how they are scaled. (default: by scheme)"),
    ] = None,
    smoothing: Annotated[
        float, typer.Option(help="int8: how much range moves from activations to weights, 0 to 1.")
    ] = 0.5,
    budget: Annotated[
        float | None,
        typer.Option(help="gptq, awq, rtn: average bits, scales included; each matrix its own."),
    ] = None,
    recover: Annotated[
        bool, typer.Option("--recover", help="gptq, awq, rtn: train all layers on what was lost.")
    ] = False,
    kv_cache: Annotated[
        Literal["fp8"] | None,
        typer.Option(help="Scales for keys and values kept as fp8; writes compressed-tensors."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="Module that stays dense: down_proj, model.layers.0.*; repeatable."),
    ] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            help="File of text to calibrate on and, in part, to measure with; repeatable. "
            "(default: texts that the model writes, for which it must fit into memory)"
        ),
    ] = None,
    perplexity: Annotated[
        list[Path] | None,
        typer.Option(help="File of text to measure perplexity on, too; repeatable."),
    ] = None,
    num_texts: Annotated[
        int,
        typer.Option(
            min=1, help="To calibrate on; --recover trains on 32 times as many more of its own."
        ),
    ] = 128,
    text_tokens: Annotated[int, typer.Option(min=2, help="Of each text, at most.")] = 256,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Gives the same texts and result again.")
    ] = 0,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto: the GPU where there is one.")
    ] = "auto",
    revision: Annotated[str | None, typer.Option(help="Of an hf:// model.")] = None,
    cache_dir: Annotated[
        Path | None, typer.Option(envvar="AWEIGH_CACHE_DIR", help="As for `aweigh serve`.")
    ] = None,
) -> None:
    """Quantize a dense model, and measure what it has lost.

    With --calibration it holds one layer in memory at a time. A command that was killed goes on
    where it was when it is given again. Writes GPTQ, AWQ, Marlin-24 (2:4), FP8 or
    compressed-tensors files, and a model card. With --compare it measures size, loss and speed of
    many schemes, and names the smallest that loses no more than --loss.
    """
    from aweigh_cli.quantize_progress import display
    from aweigh_quantize.calibration import Amount
    from aweigh_quantize.job import Job, run
    from aweigh_quantize.recipe import Recipe, expect_taken

    cache = cache_dir or default_cache_dir()
    with explained():
        amount = Amount(num_texts, text_tokens, seed)
    texts = {
        "calibration": readable(calibration, "--calibration"),
        "perplexity": readable(perplexity, "--perplexity"),
    }
    if compare or output is None:
        _expect_comparison(context)
        with explained():
            directory = fetched(model, revision, cache)
            typer.echo(_compared(model, directory, amount, texts, loss, chosen(device), cache))
        return
    if "loss" in given(context):
        raise CommandFailure(
            "--loss has no effect without --compare; expected both, or neither",
            ExitStatus.BAD_INPUT,
        )
    with explained():
        expect_taken(scheme, given(context))
        recipe = Recipe(
            scheme=scheme,
            bits=bits,
            group_size=group_size,
            symmetric=symmetric,
            act_order=act_order,
            static_groups=static_groups,
            damping=damping,
            sparse=sparse is not None,
            granularity=granularity,
            activations=activations,
            smoothing=smoothing,
            keep=tuple(keep or ()),
            budget=budget,
            recover=recover,
            kv_cache=kv_cache,
        )
        with display() as shown:
            job = Job(
                model=model,
                directory=fetched(model, revision, cache),
                recipe=recipe,
                out=output,
                amount=amount,
                calibration=texts["calibration"],
                perplexity=texts["perplexity"],
                device=chosen(device),
                cache_dir=cache,
                command=as_typed(),
            )
            found = run(job, shown)
    typer.echo(_text(output, found))


def _expect_comparison(context: typer.Context) -> None:
    """Refuse what decides about one scheme: all are tried."""
    asked = given(context)
    if "compare" not in asked:
        context.fail("Missing option '--output' / '-o', or '--compare'.")
    if refused := [name for name in asked if name not in COMPARED]:
        raise CommandFailure(
            f"--compare with --{refused[0].replace('_', '-')}; expected neither an output nor a "
            "scheme and its options: schemes of your own are for `aweigh bench quantization`",
            ExitStatus.BAD_INPUT,
        )


def _compared(  # noqa: PLR0913 - what a comparison needs
    model: str,
    directory: Path,
    amount: "Amount",
    texts: dict[str, list[Path]],
    loss: float,
    device: "torch.device",
    cache_dir: Path,
) -> str:
    from aweigh_bench import quantization

    options = quantization.Options(
        model=model,
        directory=directory,
        schemes=DEFAULT_SCHEMES.split(","),
        amount=amount,
        **texts,
        loss=loss,
        steps=STEPS,
        device=device,
        cache_dir=cache_dir,
        command=as_typed(),
    )
    return asyncio.run(quantization.run(options)).text()


def _text(output: Path, found: "Outcome") -> str:
    sizes = found.sizes
    lines = [
        f"{output}: {found.layout}",
        f"weights {sizes.dense / 1e6:,.1f} MB, now {sizes.written / 1e6:,.1f} MB; quantized "
        f"matrices {sizes.ratio:.2f} times smaller, {sizes.bits:.2f} bits per weight",
    ]
    for name, loss in found.losses.items():
        lines.append(
            f"{name}: KL {loss.kl} nats per token, same likeliest token {loss.agreement}, "
            f"perplexity {loss.perplexity:.4g} (dense {loss.dense_perplexity:.4g})"
        )
    serve = shlex.join(["aweigh", "serve", f"file://{output.absolute()}"])
    lines.append(f"took {found.seconds:,.0f} s; serve it: {serve}")
    return "\n".join(lines)
