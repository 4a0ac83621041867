"""`aweigh plan`: whether a model fits, and how many requests, before anything is deployed."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from aweigh_api.number_formats import KvCacheDTypeName, SchemeName
from aweigh_api.quantity import NotAQuantity, to_bytes
from aweigh_cli.failures import CommandFailure, ExitStatus

if TYPE_CHECKING:
    from aweigh_api.spec import InferenceService
    from aweigh_cli.capacity import Device, Fitted, Plan, Wish
    from aweigh_cli.planned_drafts import PlannedDrafts
    from aweigh_runtime.model.config import ModelConfig
    from aweigh_runtime.model.described import Described

GIBI, KIBI = 1 << 30, 1 << 10


def plan(  # noqa: PLR0913 - what decides about memory
    target: Annotated[
        str,
        typer.Argument(
            metavar="FILE|FOLDER|URI",
            help="YAML with an InferenceService (- is stdin), or a model: a folder or a URI.",
        ),
    ],
    *,
    name: Annotated[
        str | None, typer.Option(help="Which InferenceService, where the file holds several.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Kind of GPU: h100, h200, a100-40, a100-80, l4, l40s, ...")
    ] = None,
    gpu_memory: Annotated[
        str | None, typer.Option(help="Memory of the GPU, as 80Gi, instead of its kind.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Memory of a pod without GPU. (default: its limit)")
    ] = None,
    dtype: Annotated[
        Literal["auto", "bf16", "fp16", "fp32"] | None, typer.Option(help="As in `aweigh serve`.")
    ] = None,
    quantization: Annotated[SchemeName | None, typer.Option(help="As in `aweigh serve`.")] = None,
    kv_cache_dtype: Annotated[
        KvCacheDTypeName | None, typer.Option(help="As in `aweigh serve`.")
    ] = None,
    draft_model: Annotated[
        list[str] | None, typer.Option(help="As in `aweigh serve`; repeatable.")
    ] = None,
    max_model_len: Annotated[int | None, typer.Option(min=1, help="As in `aweigh serve`.")] = None,
    max_running: Annotated[int, typer.Option(min=1, max=4096, help="As in `aweigh serve`.")] = 256,
    request_tokens: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Length of a request to count for; repeatable."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of an hf:// model.")] = None,
    output: Annotated[Literal["text", "json"], typer.Option(help="What is printed.")] = "text",
) -> None:
    """Say where memory would go: weights, the largest step, keys and values.

    Reads the model's config only. Without a GPU or an amount of memory, says on which GPUs it fits.
    Exit code 1: it does not fit.
    """
    from aweigh_cli.capacity import LENGTHS, Wish
    from aweigh_cli.planned_drafts import planned_drafts

    uri, service = _model_of(target, name)
    model = None if service is None else service.spec.model
    asked = None if service is None else service.spec.quantization
    found = _described(uri, service, revision, quantization)
    wanted_len = max_model_len or (None if model is None else model.max_model_len)
    longest = _longest_request(found.config, wanted_len)
    _expect_servable(request_tokens or [], longest)
    drafts = planned_drafts(service, draft_model, found, longest)
    wanted_host = 0 if service is None else service.spec.prefix_cache.host_memory or 0
    wish = Wish(
        dtype=dtype or ("auto" if model is None else model.dtype),
        kv_cache_dtype=kv_cache_dtype or ("auto" if asked is None else asked.kv_cache_dtype),
        quantization=found.quantization,
        kept_bytes=found.kept_bytes,
        max_model_len=wanted_len,
        max_running=max_running,
        block_tokens=16 if service is None else service.spec.prefix_cache.block_tokens or 16,
        lengths=request_tokens or LENGTHS,
        longest_draft=_longest_draft(service, drafts),
        drafts=drafts.used,
        host=_bytes("prefixCache.hostMemory", wanted_host),
    )
    device = _device(service, gpu, gpu_memory, memory, wish.host)
    if device is None:
        _overview(target, found.config, wish, drafts, output)
    else:
        _one(target, found.config, device, wish, drafts, output)


def _model_of(target: str, name: str | None) -> tuple[str, "InferenceService | None"]:
    """A model's URI, and who asks for it, if the target is a file."""
    if "://" in target:
        return target, None
    if Path(target).is_dir():
        return f"file://{Path(target).absolute()}", None
    service = _service(target, name)
    return service.spec.model.uri, service


def _described(
    uri: str,
    service: "InferenceService | None",
    revision: str | None,
    quantization: SchemeName | None,
) -> "Described":
    """Flags come before what the InferenceService says."""
    from aweigh_cli.model_config import described

    asked = None if service is None else service.spec.quantization
    scheme = quantization or ("auto" if asked is None else asked.scheme)
    return described(uri, revision or _revision(service), scheme)


def _longest_request(config: "ModelConfig", wanted: int | None) -> int:
    """Tokens of prompt and answer."""
    from aweigh_runtime.failures import StartFailure
    from aweigh_runtime.model.footprint import model_len

    try:
        return model_len(config, wanted)
    except StartFailure as failure:
        raise CommandFailure(str(failure), failure.exit_code) from failure


def _expect_servable(lengths: list[int], longest: int) -> None:
    for length in lengths:
        if length > longest:
            raise _refusal(
                f"--request-tokens is {length}, but a request has at most {longest} tokens of "
                "prompt and answer; give at most that, or raise --max-model-len"
            )


def _longest_draft(service: "InferenceService | None", drafts: "PlannedDrafts") -> int:
    """Tokens; 0: nothing is drafted."""
    from aweigh_api.speculation import DEFAULT_DRAFT_TOKENS

    part = None if service is None else service.spec.speculative_decoding
    looks_up = part is not None and part.wanted_method == "ngram"
    if not looks_up and not drafts.used:
        return 0
    return DEFAULT_DRAFT_TOKENS if part is None else part.max_draft_tokens


def _one(
    target: str,
    config: "ModelConfig",
    device: "Device",
    wish: "Wish",
    drafts: "PlannedDrafts",
    output: str,
) -> None:
    from aweigh_cli.capacity import fitted

    found = fitted(config, device, wish)
    plan, changes = found.plan, found.advice
    if output == "json":
        typer.echo(json.dumps({**_entry(found), **_as_json(drafts)}, indent=2))
    else:
        typer.echo(_text(target, config, plan, wish))
        if found.left_out:
            typer.echo(
                f"There is no room for {', '.join(found.left_out)}: a server serves without "
                f"drafts. For them: {', '.join(changes)}."
            )
        _tell_of(drafts)
    if not plan.fits:
        raise CommandFailure(
            f"{target} does not fit into {device.name}: weights, the largest step and one request "
            f"of {plan.max_model_len} tokens need {_gib(plan.missing)} more than its "
            f"{_gib(device.num_bytes)}: {', or '.join(changes)}"
        )


def _overview(
    target: str, config: "ModelConfig", wish: "Wish", drafts: "PlannedDrafts", output: str
) -> None:
    """A line for each kind of GPU."""
    from aweigh_cli.capacity import GPUS, Device, fitted

    found = [fitted(config, Device(name, size, True), wish) for name, size in GPUS.items()]
    if output == "json":
        told = {"devices": [_entry(each) for each in found], **_as_json(drafts)}
        typer.echo(json.dumps(told, indent=2))
        return
    plans = [each.plan for each in found]
    longest = plans[0].max_model_len
    typer.echo(_heading(target, config, plans[-1], wish))  # the largest has room for all
    typer.echo(f"{'GPU':8} {'memory':>10} {'for KV':>10} {'tokens':>11}  requests of {longest}")
    for each in found:
        plan = each.plan
        fit = str(plan.requests[longest]) if plan.fits else f"lacks {_gib(plan.missing)}"
        fit += ", without drafts" if each.left_out else ""
        size, kv = _gib(plan.device.num_bytes), _gib(plan.kv)
        typer.echo(f"{plan.device.name:8} {size:>10} {kv:>10} {plan.tokens:>11,}  {fit}")
    _tell_of(drafts)


def _entry(found: "Fitted") -> dict[str, Any]:
    plan = found.plan
    return {
        **asdict(plan),
        "fits": plan.fits,
        "drafts_left_out": found.left_out,
        "advice": found.advice,
    }


def _as_json(drafts: "PlannedDrafts") -> dict[str, Any]:
    return {"drafts_refused": drafts.refused, "tokenizers_not_compared": drafts.not_compared}


def _tell_of(drafts: "PlannedDrafts") -> None:
    for uri, why in drafts.refused.items():
        typer.echo(f"A server would not draft with {uri}: {why}")
    for uri in drafts.not_compared:
        typer.echo(
            f"The tokenizer of {uri} was not compared with the model's: only those of folders on "
            "this machine are. A server compares them."
        )


def _text(target: str, config: "ModelConfig", found: "Plan", wish: "Wish") -> str:
    lines = [_heading(target, config, found, wish)]
    parts = {
        f"{found.device.name}": found.device.num_bytes,
        "- weights": found.weights,
        **{f"- weights of the draft {uri}": size for uri, size in found.drafts.items()},
        "- largest step: activations, logits (estimated)": found.step,
        "- head room: libraries, spare (estimated)": found.reserve,
    }
    if found.device.is_gpu:
        parts["- CUDA graphs of decode steps (estimated)"] = found.graphs
    else:
        parts["- hostMemory, by which the limit is raised"] = found.host
        parts["- left to others on the machine"] = found.left
    parts["= for keys and values"] = found.kv
    if found.device.is_gpu:
        parts["hostMemory, beside the GPU"] = found.host
    width = max(map(len, parts))
    lines += [f"{part:{width}} {_gib(size):>12}" for part, size in parts.items()]
    lines.append(f"{'tokens that fit':{width}} {found.tokens:>12,}")
    for length, count in found.requests.items():
        capped = " (--max-running)" if count == wish.max_running else ""
        lines.append(f"{f'requests of {length:,} tokens at once':{width}} {count:>12,}{capped}")
    return "\n".join(lines)


def _heading(target: str, config: "ModelConfig", found: "Plan", wish: "Wish") -> str:
    format_ = "16 bits" if found.dtype_bytes == 2 else "32 bits"
    if not found.device.is_gpu and wish.dtype == "auto":
        format_ += " (16 where the processor computes in them itself)"
    if wish.quantization is not None:
        format_ += f", weights {wish.quantization.description}"
    drafts = "".join(
        f", {size / KIBI:.1f} KiB of them for the draft {uri}"
        for uri, size in found.draft_kv_per_token.items()
    )
    return (
        f"{target}: {config.architecture}, numbers of {format_}, weights {_gib(found.weights)}, "
        f"{found.kv_per_token / KIBI:.1f} KiB of keys and values per token"
        f"{drafts}"
    )


def _device(
    service: "InferenceService | None",
    gpu: str | None,
    gpu_memory: str | None,
    memory: str | None,
    host: int,
) -> "Device | None":
    """What was named, else what the InferenceService asks for.

    The operator raises the limit of a pod by the host memory, so that it is the pod's own as well.
    """
    from aweigh_cli.capacity import GPUS, Device

    given = {"--gpu": gpu, "--gpu-memory": gpu_memory, "--memory": memory}
    named = [flag for flag, value in given.items() if value is not None]
    if len(named) > 1:
        raise _refusal(f"{' and '.join(named)} are given; expected one of them")
    if gpu is not None:
        if gpu not in GPUS:
            raise _refusal(
                f"--gpu is {gpu}; expected one of {', '.join(GPUS)}, or --gpu-memory with what "
                "nvidia-smi shows"
            )
        return Device(gpu, GPUS[gpu], True)
    if gpu_memory is not None:
        return Device("the GPU", _bytes("--gpu-memory", gpu_memory), True)
    if memory is not None:
        return Device("the pod", _bytes("--memory", memory) + host, False)
    return None if service is None else _pod(service, host)


def _pod(service: "InferenceService", host: int) -> "Device | None":
    """None: it takes a GPU of a kind that nobody has named."""
    from aweigh_api.spec import GPU
    from aweigh_cli.capacity import Device

    limits = (service.spec.resources and service.spec.resources.limits) or {}
    if str(limits.get(GPU, 0)) != "0":
        return None
    if "memory" not in limits:
        raise _refusal(
            f"InferenceService {service.metadata.name} has neither resources.limits.memory nor "
            f"{GPU}; expected what the pod may take: give --memory, or --gpu"
        )
    return Device(
        "the pod's limit", _bytes("resources.limits.memory", limits["memory"]) + host, False
    )


def _service(file: str, name: str | None) -> "InferenceService":
    from aweigh_cli.manifests import read_service

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise _refusal(
            f"cannot read {file}: {error}; expected a YAML file, or a model's folder or URI"
        ) from error
    return read_service(text, file, name)


def _revision(service: "InferenceService | None") -> str | None:
    return None if service is None else service.spec.model.revision


def _bytes(flag: str, text: int | str) -> int:
    try:
        return to_bytes(text)
    except NotAQuantity as error:
        raise _refusal(f"{flag}: {error}") from error


def _gib(count: int) -> str:
    return f"{count / GIBI:.2f} GiB"


def _refusal(message: str) -> CommandFailure:
    return CommandFailure(message, ExitStatus.BAD_INPUT)
