"""`aweigh top`: what pods and routers of InferenceServices do at this moment, as they report it."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import typer

from aweigh_api import names
from aweigh_cli.failures import CommandFailure
from aweigh_cli.inferenceservice import RESOURCE

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

    from aweigh_api.state import State

    Rows = list[list[str]]

Report = TypeVar("Report", bound="BaseModel")
SERVICES = ("NAMESPACE", "NAME", "READY", "PODS", "DESIRED", "HIT%", "ACCEPT%", "TOKENS/STEP")
PODS = ("POD", "RUNNING", "WAITING", "KV%", "HIT%", "ACCEPT%", "TOKENS/STEP", "OUTPUT TOKENS", "UP")
ROUTERS = ("ROUTER", "WAITING", "OLDEST", "IN FLIGHT", "PODS", "ARRIVED", "UP")
NAMES = ("NAMESPACE", "NAME", "POD", "ROUTER")  # columns of words
UNKNOWN = "-"
REPORT_S = 5  # that a pod has to give its report
ASKED_AT_ONCE = 32  # pods, each by a process of kubectl
WIDE = (
    1000  # letters of a line, as kubectl's are as long as they are: a name cut short names nothing
)


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
    now, with hits and tokens since it has started. A pod that does not answer has a - everywhere,
    and what kubectl says of the first one follows: none does without the right to get pods/proxy.
    Where routers stand before them, these follow with the queue, and with how the load is spread.
    """
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False, width=WIDE)
    if name is None:
        found = services(namespace, all_namespaces)
        if found:
            _print(console, SERVICES, found)
        else:
            where = "any namespace" if all_namespaces else f"namespace {namespace or 'of kubectl'}"
            typer.echo(f"no InferenceService in {where}", err=True)
        return
    serving, routing, silent = pods(name, namespace)
    _print(console, PODS, serving)
    if routing:
        console.print()
        _print(console, ROUTERS, routing)
        console.print(f"\nspread: {spread([row[1] for row in serving])}")
    if silent:
        typer.echo(_told_of(silent), err=True)


def _told_of(silent: list[str]) -> str:
    """Why there are dashes, in one sentence."""
    others = f" (and {len(silent) - 1} more do not answer)" if len(silent) > 1 else ""
    return f"{silent[0]}{others}"


def _print(console: "Console", columns: tuple[str, ...], rows: "Rows") -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in NAMES else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def spread(running: list[str]) -> str:
    """How evenly answers are on the pods, by what the column RUNNING has."""
    told = [int(each) for each in running if each != UNKNOWN]
    if not sum(told):
        return "nothing runs"
    return f"the busiest pod runs {max(told) * len(told) / sum(told):.1f} times the mean"


def services(namespace: str | None, all_namespaces: bool) -> list[list[str]]:
    """A row for each InferenceService."""
    from aweigh_cli.kubectl import get

    scope = ["--all-namespaces"] if all_namespaces else []
    if namespace is not None:
        scope = ["--namespace", namespace]
    found = json.loads(get(RESOURCE, *scope, "-o", "json"))
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


def pods(name: str, namespace: str | None) -> tuple["Rows", "Rows", list[str]]:
    """A row for each pod of a service, and for each router; why some have not told anything."""
    from aweigh_cli.kubectl import get

    scope = ["--namespace", namespace] if namespace else []
    get(RESOURCE, name, *scope)  # says so if there is none
    selector = f"{names.LABEL_INSTANCE}={name},{names.LABEL_NAME}!={names.PREFETCH}"
    found = json.loads(get("pods", "-l", selector, *scope, "-o", "json"))["items"]
    with ThreadPoolExecutor(ASKED_AT_ONCE) as asking:  # a silent pod holds up none but itself
        rows = list(asking.map(_row, found))
    return (
        [row.cells for row in rows if not row.routes],
        [row.cells for row in rows if row.routes],
        [row.silence for row in rows if row.silence is not None],
    )


class _Row(NamedTuple):
    """What a pod or router has told."""

    cells: list[str]
    routes: bool
    silence: str | None = None  # why it has told nothing


def _row(body: dict[str, Any]) -> _Row:
    routes = _routes(body)
    try:
        return _Row((_router if routes else _pod)(body), routes)
    except CommandFailure as error:
        dashes = (UNKNOWN for _ in (ROUTERS if routes else PODS)[1:])
        return _Row([body["metadata"]["name"], *dashes], routes, str(error))


def _routes(body: dict[str, Any]) -> bool:
    labels = body["metadata"].get("labels") or {}
    return bool(labels.get(names.LABEL_NAME) == names.ROUTER)


def _router(body: dict[str, Any]) -> list[str]:
    from aweigh_api.router_state import RouterState

    metadata = body["metadata"]
    state = _told(metadata["namespace"], metadata["name"], RouterState)
    oldest_s = state.oldest_waiting_s
    return [
        metadata["name"],
        _text(state.waiting),
        UNKNOWN if oldest_s is None else f"{oldest_s:.0f} s",
        _text(state.in_flight),
        _text(state.known_pods),
        _text(state.arrived_requests),
        f"{state.uptime_s:.0f} s",
    ]


def _pod(body: dict[str, Any]) -> list[str]:
    from aweigh_api.state import State

    metadata = body["metadata"]
    state = _told(metadata["namespace"], metadata["name"], State)
    kv = state.kv_tokens
    return [
        metadata["name"],
        _text(state.running),
        _text(state.waiting),
        _percent(None if kv is None else kv.held, None if kv is None else kv.capacity),
        _percent(state.cached_prompt_tokens, _sum(state)),
        _percent(state.accepted_tokens, state.drafted_tokens),
        _ratio(state.decode_tokens, state.decoded_rows),
        _text(state.generated_tokens),
        f"{state.uptime_s:.0f} s",
    ]


def _told(namespace: str, pod: str, form: "type[Report]") -> "Report":
    """The pod's report, through the API server's proxy; a failure where it gives none in time."""
    from aweigh_cli.kubectl import kubectl

    path = f"/api/v1/namespaces/{namespace}/pods/{pod}:{names.ADMIN_PORT}/proxy/state"
    said = kubectl("get", "--raw", path, f"--request-timeout={REPORT_S}s")
    try:
        return form.model_validate_json(said)
    except ValueError as error:
        raise CommandFailure(f"pod {pod} answers with no report at {path}") from error


def _sum(state: "State") -> int | None:
    cached, computed = state.cached_prompt_tokens, state.computed_prompt_tokens
    return None if cached is None or computed is None else cached + computed


def _percent(part: int | None, whole: int | None) -> str:
    return UNKNOWN if part is None or not whole else f"{100 * part / whole:.0f}"


def _ratio(part: int | None, whole: int | None) -> str:
    return UNKNOWN if part is None or not whole else f"{part / whole:.2f}"


def _text(value: object) -> str:
    return UNKNOWN if value is None else str(value)
