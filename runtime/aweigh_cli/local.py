"""`aweigh local`: an InferenceService on this machine, without Kubernetes.

It becomes the same `aweigh serve` command that the operator gives to a pod, or several of them
behind the same router.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aweigh_cli.failures import CommandFailure, ExitStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aweigh_api.access import SecretRef
    from aweigh_api.spec import InferenceService

STANDARD_INPUT = Path("-")
_BY_FILES = ("s3://", "oci://")  # sources that one variable does not open


def local(  # noqa: PLR0913 - one parameter for each option
    context: typer.Context,
    file: Annotated[
        Path, typer.Option("--filename", "-f", help="YAML with the InferenceService; - is stdin.")
    ],
    name: Annotated[
        str | None, typer.Option(help="Which InferenceService, where the file holds several.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="As in `aweigh serve`.")] = None,
    port: Annotated[int | None, typer.Option(help="As in `aweigh serve`.")] = None,
    admin_port: Annotated[int | None, typer.Option(help="As in `aweigh serve`.")] = None,
    pods: Annotated[
        int, typer.Option(min=1, max=16, help="Servers; several have a router before them.")
    ] = 1,
) -> None:
    """Serve an InferenceService on this machine, without Kubernetes.

    All flags of `aweigh serve` can be given in the environment, such as AWEIGH_DEVICE; with several
    servers those of `aweigh-router`, too, such as AWEIGH_WAIT_SECONDS.
    """
    from aweigh_api import flags
    from aweigh_cli.manifests import read_service

    service = read_service(_read(file), str(file), name)
    _refuse_what_needs_a_cluster(service)
    for warning in without_effect(service, pods):
        typer.echo(f"warning: {warning}", err=True)
    for variable in (service.spec.template and service.spec.template.env) or []:
        os.environ[variable.name] = variable.value

    here = {"--host": host, "--port": port, "--admin-port": admin_port}
    given = [f"{flag}={value}" for flag, value in here.items() if value is not None]
    # Nothing routes to this machine late, so Ctrl-C need not wait for clients to learn of it.
    arguments = [*flags.serve_arguments(service), "--drain-settle-seconds=0"]
    if pods == 1:
        context.find_root().command.main([*arguments, *given], prog_name="aweigh")
        return
    from aweigh_api.variables import without_effect as no_settings
    from aweigh_cli import routed
    from aweigh_router.settings import VARIABLES

    of_servers = context.find_root().command.commands["serve"].variables  # type: ignore[attr-defined]
    for warning in no_settings(os.environ, [*of_servers, *VARIABLES], "aweigh local"):
        typer.echo(f"warning: {warning}", err=True)
    # Of what is the router's alone each server would say that it has no effect.
    of_router = {*VARIABLES} - {*of_servers}
    environment = {name: text for name, text in os.environ.items() if name not in of_router}
    drain_s = service.spec.drain.timeout_seconds
    router = ["--drain-settle-seconds=0", f"--drain-timeout-seconds={drain_s}", *given]
    router.append(f"--model-name={service.model_name}")
    routed.serve(routed.Servers(arguments, environment, pods), router)


def without_effect(service: "InferenceService", pods: int = 1) -> list[str]:
    """A sentence for each field that is set and means nothing on one machine."""
    spec = service.spec
    meaningless = {
        "replicas": spec.replicas not in (None, 1),
        "scaling": spec.scaling is not None,
        "router": spec.router is not None,
        "suspend": spec.suspend,
        "rollout": "rollout" in spec.model_fields_set,
        "networkPolicy": "network_policy" in spec.model_fields_set,
        "disruption": spec.disruption is not None,
        "template": spec.template is not None and spec.template.model_fields_set != {"env"},
    }
    exceptions = {"template": " except for template.env"}
    runs = "one server runs here and takes" if pods == 1 else f"{pods} servers run here and take"
    return [
        f"spec.{field} has no effect without a cluster{exceptions.get(field, '')}: {runs} what "
        f"{'it needs' if pods == 1 else 'they need'}"
        for field, is_set in meaningless.items()
        if is_set
    ]


def _refuse_what_needs_a_cluster(service: "InferenceService") -> None:
    drafts = [f"speculativeDecoding.draftModels[{i}]" for i in range(len(service.spec.uris) - 1)]
    for field, uri in zip(["model", *drafts], service.spec.uris, strict=True):
        if uri.startswith("pvc://"):
            raise CommandFailure(
                f"spec.{field}.uri is {uri}, a volume of a cluster; expected a model that this "
                "machine can reach: give file:///PATH of a copy",
                ExitStatus.BAD_INPUT,
            )
    for field, secret, variable, where in _secrets(service):
        if not os.environ.get(variable):
            raise CommandFailure(
                f"spec.{field} is {secret.name}, a Secret of a cluster; expected what it holds on "
                f"this machine: set {variable}{where}",
                ExitStatus.BAD_INPUT,
            )


def _secrets(service: "InferenceService") -> "Iterator[tuple[str, SecretRef, str, str]]":
    """Each Secret that the spec names: its field, and the variable that stands for it here."""
    spec, folder = service.spec, " to a directory with its entries as files"
    if spec.model.secret_ref and not any(uri.startswith(_BY_FILES) for uri in spec.uris):
        yield "model.secretRef", spec.model.secret_ref, "HF_TOKEN", ""
    elif spec.model.secret_ref:
        yield "model.secretRef", spec.model.secret_ref, "AWEIGH_SECRET_DIR", folder
    if spec.auth:
        yield "auth.apiKeys.secretRef", spec.auth.api_keys.secret_ref, "AWEIGH_API_KEYS_DIR", folder
    if spec.tls:
        yield "tls.secretRef", spec.tls.secret_ref, "AWEIGH_TLS_DIR", folder


def _read(file: Path) -> str:
    try:
        return sys.stdin.read() if file == STANDARD_INPUT else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailure(
            f"cannot read {file}: {error}; expected a YAML file", ExitStatus.BAD_INPUT
        ) from error
