"""`aweigh upgrade`: moves running pods to the operator's current runtime image.

An upgrade of the operator leaves serving pods alone. This asks for their turn, one InferenceService
after the other, so that at most one is rolling at any time.
"""

import json
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from aweigh_api import names
from aweigh_cli.failures import CommandFailure, ExitStatus
from aweigh_cli.inferenceservice import RESOURCE

OPERATOR_TIMEOUT_S = 60.0
POLL_S = 0.5


def upgrade(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Which InferenceService.")
    ] = None,
    *,
    every: Annotated[
        bool, typer.Option("--all", help="All InferenceServices of the namespace.")
    ] = False,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace. (default: kubectl's)")
    ] = None,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="With --all: of all namespaces.")
    ] = False,
    timeout: Annotated[
        int, typer.Option(min=1, help="Seconds to wait for the pods of each.")
    ] = 1800,
    force: Annotated[
        bool, typer.Option("--force", help="Also restart pods that are current already.")
    ] = False,
) -> None:
    """Move pods and routers to the operator's current images.

    One InferenceService after the other; stops at the first whose new pods do not get ready. Those
    that are as the operator makes them now stay as they are.
    """
    _check(name, every, namespace, all_namespaces)
    services = _services(name, namespace, all_namespaces)
    if not services:
        typer.echo("no InferenceService to upgrade")
    for service in services:
        turn = _Upgrade(service["metadata"]["namespace"], service["metadata"]["name"])
        if _is_current(service) and not force:
            turn.skip()
        else:
            turn.run(timeout)


class _Upgrade:
    """The upgrade of one InferenceService."""

    def __init__(self, namespace: str, name: str) -> None:
        self._title = f"{namespace}/{name}"
        self._name = name
        self._scope = ("--namespace", namespace)

    def run(self, timeout_s: int) -> None:
        """Ask for it, wait for the operator's new template, then for the new pods."""
        before = self._deployment()
        typer.echo(f"{self._title}: {_image(before)} is being replaced")
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        mark = f"{names.UPGRADE}={moment}"
        self._kubectl("annotate", RESOURCE, self._name, "--overwrite", mark)
        self._wait_for_another_template(_template_hash(before), min(timeout_s, OPERATOR_TIMEOUT_S))
        self._wait_for_pods(timeout_s)
        after = self._deployment()
        stopped = " once it has pods again" if after["spec"]["replicas"] == 0 else ""
        typer.echo(f"{self._title}: runs {_image(after)}{stopped}")

    def skip(self) -> None:
        """Say why nothing is done."""
        typer.echo(
            f"{self._title}: runs {_image(self._deployment())}, as the operator would make it now; "
            "--force restarts it"
        )

    def _wait_for_another_template(self, old: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while _template_hash(self._deployment()) == old:
            if time.monotonic() >= deadline:
                raise CommandFailure(
                    f"{self._title}: the operator has not acted within {timeout_s:.0f} s; "
                    f"expected a running operator. {self._state()}"
                )
            time.sleep(POLL_S)

    def _wait_for_pods(self, timeout_s: int) -> None:
        target = (f"deployment/{self._name}", f"--timeout={timeout_s}s")
        try:
            self._kubectl("rollout", "status", *target)
        except CommandFailure as failure:
            raise CommandFailure(
                f"{self._title}: the new pods are not ready. {self._state()} ({failure})"
            ) from failure

    def _state(self) -> str:
        """What the InferenceService says about itself."""
        service = json.loads(self._kubectl("get", RESOURCE, self._name, "-o", "json"))
        conditions = service.get("status", {}).get("conditions", [])
        ready = [each for each in conditions if each["type"] == "Ready"]
        if not ready:
            return "It has no condition yet."
        return f"Its condition Ready is {ready[0]['status']}: {ready[0]['message']}"

    def _deployment(self) -> dict[str, Any]:
        """The Deployment; empty while the operator has made none."""
        text = self._kubectl(
            "get", "deployment", self._name, "--ignore-not-found", "-o", "json"
        ).strip()
        return json.loads(text) if text else {}

    def _kubectl(self, *arguments: str) -> str:
        from aweigh_cli.kubectl import kubectl

        return kubectl(*arguments, *self._scope)


def _check(name: str | None, every: bool, namespace: str | None, all_namespaces: bool) -> None:
    if (name is None) != every:
        given = "neither NAME nor --all" if name is None else "both NAME and --all"
        raise CommandFailure(f"given: {given}; expected one of the two", ExitStatus.BAD_INPUT)
    if all_namespaces and (name is not None or namespace is not None):
        raise CommandFailure(
            "--all-namespaces is given with NAME or --namespace; expected it with --all alone",
            ExitStatus.BAD_INPUT,
        )


def _services(
    name: str | None, namespace: str | None, all_namespaces: bool
) -> list[dict[str, Any]]:
    from aweigh_cli.kubectl import kubectl

    which = [name] if name is not None else []
    scope = ["--all-namespaces"] if all_namespaces else []
    if namespace is not None:
        scope = ["--namespace", namespace]
    found = json.loads(kubectl("get", RESOURCE, *which, *scope, "-o", "json"))
    services: list[dict[str, Any]] = found.get("items", [found])
    return services


def _is_current(service: dict[str, Any]) -> bool:
    """Whether the operator says so of the present spec; an older one says nothing."""
    status = service.get("status") or {}
    seen = status.get("observedGeneration") == service["metadata"].get("generation")
    return seen and status.get("outdated") is False


def _template_hash(deployment: dict[str, Any]) -> str:
    annotations = deployment.get("metadata", {}).get("annotations", {})
    return str(annotations.get(names.TEMPLATE_HASH, ""))


def _image(deployment: dict[str, Any]) -> str:
    pod = deployment.get("spec", {}).get("template", {}).get("spec", {})
    images = [
        each["image"] for each in pod.get("containers", []) if each["name"] == names.CONTAINER
    ]
    return images[0] if images else "no image"
