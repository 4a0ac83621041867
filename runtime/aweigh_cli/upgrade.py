"""`aweigh upgrade`: moves running pods to the operator's current images.

An upgrade of the operator leaves serving pods alone. This asks for their turn, one InferenceService
after the other, so that at most one is rolling at any time. Whether pods would become others the
operator alone knows: it answers each time that it is asked, on the Deployments themselves.
"""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from aweigh_api import names
from aweigh_api.reasons import ConditionType, Reason
from aweigh_cli.failures import CommandFailure, ExitStatus
from aweigh_cli.inferenceservice import RESOURCE

OPERATOR_TIMEOUT_S = 60.0
POLL_S = 0.5
TELL_S = 3
_ON_THEIR_WAY = (Reason.READY, Reason.PROGRESSING, Reason.DOWNLOADING, Reason.LOADING)
_TIMED_OUT = "timed out waiting for the condition"  # kubectl's
_CONTAINERS = (names.CONTAINER, names.ROUTER_CONTAINER)


def upgrade(  # noqa: PLR0913 - one parameter for each option
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
    settle: Annotated[
        int,
        typer.Option(
            min=0,
            help="Seconds in which an operator that was just replaced may still answer: what is "
            "asked in this time is asked again after it.",
        ),
    ] = 10,
    force: Annotated[
        bool, typer.Option("--force", help="Also restart pods that are current already.")
    ] = False,
) -> None:
    """Move pods and routers to the operator's current images.

    One InferenceService after the other; stops at the first whose pods do not get ready. Those that
    are as the operator would make them now are not restarted.
    """
    _check(name, every, namespace, all_namespaces)
    settled_s = time.monotonic() + settle
    services = _services(name, namespace, all_namespaces)
    if not services:
        typer.echo("no InferenceService to upgrade")
    for metadata in services:
        try:
            _Upgrade(metadata["namespace"], metadata["name"], timeout).run(settled_s, force=force)
        except _Deleted as deleted:
            if not every:
                raise
            typer.echo(f"{deleted}; it is left out")


class _Deleted(CommandFailure):
    """The InferenceService goes, or is gone."""


class _Upgrade:
    """The upgrade of one InferenceService."""

    def __init__(self, namespace: str, name: str, timeout_s: int) -> None:
        self._title = f"{namespace}/{name}"
        self._name = name
        self._scope = ("--namespace", namespace)
        self._timeout_s = timeout_s

    def run(self, settled_s: float, *, force: bool) -> None:
        """Ask and wait; once more, where an operator may have answered that was about to go."""
        asked_s = time.monotonic()
        deployments, moved = self._turn(force=force)
        if asked_s < settled_s:
            time.sleep(max(0.0, settled_s - time.monotonic()))
            deployments, again = self._turn(force=False)
            moved = moved or again
        images = " and ".join(map(_image, deployments.values()))
        stopped = deployments[self._name]["spec"]["replicas"] == 0
        when = " once it has pods again" if stopped else ""
        why = "" if moved else ", as the operator would make it now; --force restarts it"
        typer.echo(f"{self._title}: runs {images}{when}{why}")

    def _turn(self, *, force: bool) -> tuple[dict[str, dict[str, Any]], bool]:
        """Ask, and wait for the pods: the Deployments, and whether any pods were replaced.

        Those that are not replaced are waited for, too: an upgrade that failed may have left them.
        """
        self._check_that_it_stays()
        before = {name: _image(each) for name, each in self._deployments().items()}
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        asked = moment + (names.UPGRADE_FORCED if force else "")
        self._kubectl("annotate", RESOURCE, self._name, "--overwrite", f"{names.UPGRADE}={asked}")
        answered = self._answered(asked, min(self._timeout_s, OPERATOR_TIMEOUT_S))
        moved = [name for name, each in answered.items() if _note(each, names.UPGRADE) == asked]
        for name in moved:
            typer.echo(f"{self._title}: {before.get(name, 'no image')} is being replaced")
        for name in answered:
            self._wait_for_pods(name)
        return answered, bool(moved)

    def _answered(self, asked: str, timeout_s: float) -> dict[str, dict[str, Any]]:
        """The Deployments, once the operator says of each that this upgrade has come to it."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = self._deployments()
            answers = {_note(each, names.UPGRADE_ANSWERED) for each in found.values()}
            if self._name in found and answers == {asked}:
                return found
            self._check_that_it_stays()
            if time.monotonic() >= deadline:
                raise CommandFailure(
                    f"{self._title}: no answer from the operator within {timeout_s:.0f} s; "
                    "expected one that runs, and that can apply what the spec asks for. "
                    f"{_said(self._ready())}"
                )
            time.sleep(POLL_S)

    def _check_that_it_stays(self) -> None:
        text = self._kubectl("get", RESOURCE, self._name, "--ignore-not-found", "-o", "json")
        if not text.strip() or "deletionTimestamp" in json.loads(text)["metadata"]:
            raise _Deleted(
                f"InferenceService {self._title} is being deleted, or is no longer there; expected "
                "one that stays"
            )

    def _wait_for_pods(self, deployment: str) -> None:
        """Until all are as the Deployment says, and ready; meanwhile tell what holds them up."""
        deadline, told = time.monotonic() + self._timeout_s, ""
        while True:
            left_s = max(1, min(TELL_S, int(deadline - time.monotonic())))
            try:
                self._kubectl(
                    "rollout", "status", f"deployment/{deployment}", f"--timeout={left_s}s"
                )
            except CommandFailure as failure:
                self._check_that_it_stays()
                ready = self._ready()
                state = _said(ready)
                if _TIMED_OUT not in str(failure) or time.monotonic() >= deadline:
                    raise CommandFailure(
                        f"{self._title}: not all pods are ready. {state} ({failure})"
                    ) from failure
                if state != told and ready.get("reason") not in _ON_THEIR_WAY:
                    typer.echo(f"{self._title}: waits for pods. {state}")
                    told = state
            else:
                return

    def _ready(self) -> dict[str, str]:
        """What the InferenceService says about itself; empty: nothing yet."""
        service = json.loads(self._kubectl("get", RESOURCE, self._name, "-o", "json"))
        conditions = service.get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] == ConditionType.READY), {})

    def _deployments(self) -> dict[str, dict[str, Any]]:
        """Those of pods and routers, by name, the pods' first."""
        labels = ",".join(f"{key}={value}" for key, value in names.every_pod(self._name).items())
        text = self._kubectl("get", "deployment", f"--selector={labels}", "-o", "json")
        found = {each["metadata"]["name"]: each for each in json.loads(text)["items"]}
        return dict(sorted(found.items()))

    def _kubectl(self, *arguments: str) -> str:
        from aweigh_cli.kubectl import kubectl

        return kubectl(*arguments, *self._scope)


def _said(ready: Mapping[str, str]) -> str:
    if not ready:
        return "It has no condition yet."
    return f"Its condition Ready is {ready['status']}: {ready['message']}"


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
    """The metadata of each."""
    from aweigh_cli.kubectl import kubectl

    which = [name] if name is not None else []
    scope = ["--all-namespaces"] if all_namespaces else []
    if namespace is not None:
        scope = ["--namespace", namespace]
    found = json.loads(kubectl("get", RESOURCE, *which, *scope, "-o", "json"))
    return [each["metadata"] for each in found.get("items", [found])]


def _note(deployment: Mapping[str, Any], annotation: str) -> str | None:
    noted: str | None = deployment["metadata"].get("annotations", {}).get(annotation)
    return noted


def _image(deployment: Mapping[str, Any]) -> str:
    containers = deployment["spec"]["template"]["spec"]["containers"]
    images = [each["image"] for each in containers if each["name"] in _CONTAINERS]
    return images[0] if images else "no image"
