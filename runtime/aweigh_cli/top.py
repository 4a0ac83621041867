"""`aweigh top`: what the pods of InferenceServices do at this moment, by their own reports."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aweigh_api import names
from aweigh_cli.failures import CommandFailure
from aweigh_cli.inferenceservice import RESOURCE

if TYPE_CHECKING:
    from aweigh_api.state import State

SERVICES = ("NAMESPACE", "NAME", "READY", "PODS", "DESIRED", "HIT%", "ACCEPT%", "TOKENS/STEP")
PODS = ("POD", "RUNNING", "WAITING", "KV%", "HIT%", "TOKENS/STEP", "OUTPUT TOKENS", "UP")
UNKNOWN = "-"
REPORT_S = 5  # that a pod has to give its report
ASKED_AT_ONCE = 32  # pods, each by a process of kubectl


def top(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="An InferenceService: shows its pods.")
    ] = None,
    *,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace. (default: kubectl's)")
    ] = None,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="Without NAME: of all namespaces.")
    ] = False,
) -> None:
    """Show load, cache hits and accepted drafts: of all services, or of the pods of one.

    Services are shown by their status, as of the last minutes; pods by the report that each gives
    now, with hits and tokens since it has started. A pod that does not answer has a - everywhere.
    """
    from rich.console import Console
    from rich.table import Table

    if name is None:
        columns, rows = SERVICES, services(namespace, all_namespaces)
    else:
        columns, rows = PODS, pods(name, namespace)
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(
            column, justify="left" if column in ("NAMESPACE", "NAME", "POD") else "right"
        )
    for row in rows:
        table.add_row(*row)
    Console(soft_wrap=True, highlight=False).print(table)


def services(namespace: str | None, all_namespaces: bool) -> list[list[str]]:
    """A row for each InferenceService."""
    from aweigh_cli.kubectl import kubectl

    scope = ["--all-namespaces"] if all_namespaces else []
    if namespace is not None:
        scope = ["--namespace", namespace]
    found = json.loads(kubectl("get", RESOURCE, *scope, "-o", "json"))
    return [_service(each) for each in found["items"]]


def _service(body: dict[str, Any]) -> list[str]:
    status = body.get("status") or {}
    conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
    speculation = status.get("speculation") or {}
    return [
        body["metadata"]["namespace"],
        body["metadata"]["name"],
        conditions.get("Ready", UNKNOWN),
        str(status.get("replicas", UNKNOWN)),
        _text((status.get("scaling") or {}).get("desiredReplicas")),
        _text((status.get("prefixCache") or {}).get("hitRatePercent")),
        _text(speculation.get("acceptancePercent")),
        _text(speculation.get("meanAcceptedLength")),
    ]


def pods(name: str, namespace: str | None) -> list[list[str]]:
    """A row for each pod of a service, through the API server's proxy."""
    from aweigh_cli.kubectl import kubectl

    scope = ["--namespace", namespace] if namespace else []
    kubectl("get", RESOURCE, name, *scope)  # says so if there is none
    selector = ",".join(f"{key}={value}" for key, value in names.selector(name).items())
    found = json.loads(kubectl("get", "pods", "-l", selector, *scope, "-o", "json"))
    with ThreadPoolExecutor(ASKED_AT_ONCE) as asking:  # a silent pod holds up none but itself
        return list(asking.map(_pod, found["items"]))


def _pod(body: dict[str, Any]) -> list[str]:
    metadata = body["metadata"]
    state = _state(metadata["namespace"], metadata["name"])
    if state is None:
        return [metadata["name"], *(UNKNOWN for _ in PODS[1:])]
    kv = state.kv_tokens
    return [
        metadata["name"],
        _text(state.running),
        _text(state.waiting),
        _percent(None if kv is None else kv.held, None if kv is None else kv.capacity),
        _percent(state.cached_prompt_tokens, _sum(state)),
        _ratio(state.decode_tokens, state.decoded_rows),
        _text(state.generated_tokens),
        f"{state.uptime_s:.0f} s",
    ]


def _state(namespace: str, pod: str) -> "State | None":
    """The pod's report; None where it gives none in time, as while its container starts."""
    from aweigh_api.state import State
    from aweigh_cli.kubectl import kubectl

    path = f"/api/v1/namespaces/{namespace}/pods/{pod}:{names.ADMIN_PORT}/proxy/state"
    try:
        return State.model_validate_json(
            kubectl("get", "--raw", path, f"--request-timeout={REPORT_S}s")
        )
    except (CommandFailure, ValueError):
        return None


def _sum(state: "State") -> int | None:
    cached, computed = state.cached_prompt_tokens, state.computed_prompt_tokens
    return None if cached is None or computed is None else cached + computed


def _percent(part: int | None, whole: int | None) -> str:
    return UNKNOWN if part is None or not whole else f"{100 * part / whole:.0f}"


def _ratio(part: int | None, whole: int | None) -> str:
    return UNKNOWN if part is None or not whole else f"{part / whole:.2f}"


def _text(value: object) -> str:
    return UNKNOWN if value is None else str(value)
