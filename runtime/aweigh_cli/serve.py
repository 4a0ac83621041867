"""`aweigh serve`: the flags of the runtime's Config, one for one, and nothing else."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from aweigh_api import names
from aweigh_api.number_formats import KvCacheDTypeName, SchemeName
from aweigh_api.quantity import NotAQuantity, to_bytes
from aweigh_api.variables import without_effect
from aweigh_cli.arguments import Command
from aweigh_cli.failures import CommandFailure

# Variables without a flag: what the source of an oci:// model reads, and what `aweigh chat` does.
_READ_ELSEWHERE = ("AWEIGH_OCI_PLAIN_HTTP", "AWEIGH_API_KEY")
_PROGRAM = "aweigh serve"


class ServeCommand(Command):
    """A value that is wrong ends a pod with a last word, not with how the command is used."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the flags and their variables, and say which variables mean nothing."""
        rest = super().parse_args(ctx, args)
        for warning in without_effect(os.environ, self.variables, _PROGRAM):
            typer.echo(f"warning: {warning}", err=True)
        return rest

    @property
    def variables(self) -> list[str]:
        """Those that have an effect."""
        flags = [str(parameter.envvar) for parameter in self.params if parameter.envvar]
        return [*flags, *_READ_ELSEWHERE]

    def refusal(self, ctx: Any, message: str) -> CommandFailure:
        """As any start that fails."""
        from aweigh_cli.launch import refused
        from aweigh_runtime.failures import InvalidConfiguration

        return refused(InvalidConfiguration(message), ctx.params["termination_log"])


def _flag(
    flag: str,
    description: str,
    parser: Callable[[str], Any] | None = None,
    *,
    read_first: bool = False,
) -> Any:
    return typer.Option(
        flag,
        envvar=names.environment_variable(flag.split("/")[0]),  # of --on/--no-on, the first
        show_envvar=False,
        help=description,
        parser=parser,
        is_eager=read_first,
    )


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not an integer") from error


def _bytes(text: str) -> int:
    try:
        return to_bytes(text)
    except NotAQuantity as error:
        raise typer.BadParameter(str(error)) from error


def serve(  # noqa: PLR0913 - one parameter for each field of Config
    uri: Annotated[
        str,
        typer.Argument(
            metavar="URI",
            help="The model: builtin://NAME, file:///PATH, hf://ORGANISATION/MODEL, "
            "s3://BUCKET/PREFIX or oci://REGISTRY/REPOSITORY[:TAG|@DIGEST].",
        ),
    ],
    *,
    model_name: Annotated[
        str | None,
        _flag("--model-name", "Name in the OpenAI API. (default: the last part of URI)"),
    ] = None,
    revision: Annotated[
        str | None, _flag("--revision", "Branch, tag or commit of an hf:// model.")
    ] = None,
    secret_dir: Annotated[
        Path | None, _flag("--secret-dir", "Directory that holds what opens the model's source.")
    ] = None,
    max_model_len: Annotated[
        int | None,
        _flag(
            "--max-model-len",
            "Most tokens of prompt and answer. (default: the model's own)",
            _integer,
        ),
    ] = None,
    dtype: Annotated[
        Literal["auto", "bf16", "fp16", "fp32"],
        _flag("--dtype", "Number format; auto is the checkpoint's."),
    ] = "auto",
    quantization: Annotated[
        SchemeName,
        _flag("--quantization", "How the weights are quantized; auto: as the checkpoint has them."),
    ] = "auto",
    kv_cache_dtype: Annotated[
        KvCacheDTypeName,
        _flag("--kv-cache-dtype", "Number format of cached keys and values; auto: as computed."),
    ] = "auto",
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        _flag("--device", "What computes; auto is the GPU where there is one."),
    ] = "auto",
    host: Annotated[
        str, _flag("--host", "Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[
        int, _flag("--port", "Port of the OpenAI API; 0 takes a free one.", _integer)
    ] = names.HTTP_PORT,
    admin_port: Annotated[
        int,
        _flag("--admin-port", "Port of probes, metrics and state; 0 takes a free one.", _integer),
    ] = names.ADMIN_PORT,
    cache_dir: Annotated[
        Path | None,
        _flag("--cache-dir", "Directory for downloads. (default: ~/.cache/aweigh)"),
    ] = None,
    termination_log: Annotated[
        Path | None,
        _flag("--termination-log", "File for the reason of a failed start.", read_first=True),
    ] = None,
    max_running: Annotated[
        int,
        _flag("--max-running", "Answers that are computed at the same time, at most.", _integer),
    ] = 256,
    max_waiting: Annotated[
        int, _flag("--max-waiting", "Requests that may wait; more are refused with 429.", _integer)
    ] = 256,
    step_tokens: Annotated[
        int | None,
        _flag("--step-tokens", "Most tokens in one forward pass. (default: by device)", _integer),
    ] = None,
    exact: Annotated[
        bool, _flag("--exact", "An answer never depends on what else runs; slower.")
    ] = False,
    random_weights: Annotated[
        bool, _flag("--random-weights", "Make all weights up instead of reading any: to measure.")
    ] = False,
    kv_cache_memory: Annotated[
        int | None,
        _flag(
            "--kv-cache-memory", "Memory for keys and values, as 40Gi. (default: measured)", _bytes
        ),
    ] = None,
    speculation: Annotated[
        Literal["none", "draft", "ngram"] | None,
        _flag(
            "--speculation",
            "Who guesses the next tokens. (default: draft with --draft-model, else none)",
        ),
    ] = None,
    draft_model: Annotated[
        list[str],
        _flag(
            "--draft-model",
            "Small model that guesses: URI, or hf://ORGANISATION/MODEL@REVISION; repeatable.",
        ),
    ] = (),  # type: ignore[assignment]
    max_draft_tokens: Annotated[
        int, _flag("--max-draft-tokens", "Most tokens that are guessed at once, 1 to 16.", _integer)
    ] = 8,
    min_acceptance_percent: Annotated[
        int | None,
        _flag(
            "--min-acceptance-percent",
            "Guess no more while fewer are right. (default: as measured)",
            _integer,
        ),
    ] = None,
    prefix_cache_enabled: Annotated[
        bool,
        _flag(
            "--prefix-cache-enabled/--no-prefix-cache-enabled",
            "Keep what was computed for the next request that begins the same.",
        ),
    ] = True,
    prefix_cache_size: Annotated[
        int | None,
        _flag("--prefix-cache-size", "Memory for what no request uses. (default: all)", _bytes),
    ] = None,
    prefix_cache_host_memory: Annotated[
        int,
        _flag("--prefix-cache-host-memory", "Host memory for what leaves the device's.", _bytes),
    ] = 0,
    prefix_cache_block_tokens: Annotated[
        int, _flag("--prefix-cache-block-tokens", "Tokens in a block: 16, 32, 64 or 128.", _integer)
    ] = 16,
    prefix_cache_scope: Annotated[
        Literal["Key", "Service"],
        _flag("--prefix-cache-scope", "Who shares the cache: one API key's requests, or all."),
    ] = "Key",
    api_keys_dir: Annotated[
        Path | None, _flag("--api-keys-dir", "Directory whose files hold one API key each.")
    ] = None,
    tls_dir: Annotated[
        Path | None, _flag("--tls-dir", "Directory that holds tls.crt and tls.key.")
    ] = None,
    router_secret_dir: Annotated[
        Path | None,
        _flag("--router-secret-dir", "Directory whose file secret holds what a router shows."),
    ] = None,
    tool_call_parser: Annotated[
        Literal["auto", "hermes", "llama3-json", "mistral", "qwen"],
        _flag("--tool-call-parser", "How the model writes tool calls; auto asks its template."),
    ] = "auto",
    drain_settle_seconds: Annotated[
        int,
        _flag(
            "--drain-settle-seconds", "How long new requests are served after SIGTERM.", _integer
        ),
    ] = 0,
    drain_timeout_seconds: Annotated[
        int,
        _flag(
            "--drain-timeout-seconds", "How long open requests may then take to finish.", _integer
        ),
    ] = 120,
) -> None:
    """Serve one model over the OpenAI API on this machine.

    Each flag can also be given in the environment: --admin-port is AWEIGH_ADMIN_PORT. Where a
    flag is repeatable, spaces separate its values there.
    """
    from aweigh_cli.launch import launch
    from aweigh_runtime.config import Config

    configure = partial(
        Config,
        uri=uri,
        model_name=model_name or default_model_name(uri),
        revision=revision,
        secret_dir=secret_dir,
        max_model_len=max_model_len,
        dtype=dtype,
        quantization=quantization,
        kv_cache_dtype=kv_cache_dtype,
        device=device,
        host=host,
        port=port,
        admin_port=admin_port,
        cache_dir=cache_dir or default_cache_dir(),
        termination_log=termination_log,
        max_running=max_running,
        max_waiting=max_waiting,
        step_tokens=step_tokens,
        exact=exact,
        random_weights=random_weights,
        kv_cache_memory=kv_cache_memory,
        speculation=speculation,
        draft_model=tuple(draft_model),
        max_draft_tokens=max_draft_tokens,
        min_acceptance_percent=min_acceptance_percent,
        prefix_cache_enabled=prefix_cache_enabled,
        prefix_cache_size=prefix_cache_size,
        prefix_cache_host_memory=prefix_cache_host_memory,
        prefix_cache_block_tokens=prefix_cache_block_tokens,
        prefix_cache_scope=prefix_cache_scope,
        api_keys_dir=api_keys_dir,
        tls_dir=tls_dir,
        router_secret_dir=router_secret_dir,
        tool_call_parser=tool_call_parser,
        drain_settle_seconds=drain_settle_seconds,
        drain_timeout_seconds=drain_timeout_seconds,
    )
    raise typer.Exit(launch(configure, termination_log))


def default_model_name(uri: str) -> str:
    """The last part of the URI: hf://meta-llama/Llama-3.2-1B is Llama-3.2-1B."""
    return uri.rstrip("/").rsplit("/", 1)[-1] or uri


def default_cache_dir() -> Path:
    """Where the user's caches are."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "aweigh"
