"""`aweigh why`: why an InferenceService has as many pods as it has, with the numbers."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from aweigh_api.reasons import ConditionType
from aweigh_cli.inferenceservice import RESOURCE


def why(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which InferenceService.")],
    *,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace. (default: kubectl's)")
    ] = None,
) -> None:
    """Say why there are so many pods, with the numbers that decided.

    Then what is not as it should be, and the last changes of the number.
    """
    from aweigh_cli.kubectl import get

    scope = ["--namespace", namespace] if namespace else []
    body = json.loads(get(RESOURCE, name, *scope, "-o", "json"))
    typer.echo(explained(body, datetime.now(UTC)))


def explained(body: dict[str, Any], now: datetime) -> str:
    """What the object says, for people.

    Args:
        body: the InferenceService, as the API server has it.
        now: the time of day.
    """
    metadata, spec, status = body["metadata"], body["spec"], body.get("status") or {}
    there, ready = status.get("replicas", 0), status.get("readyReplicas", 0)
    lines = [f"{metadata['namespace']}/{metadata['name']}: {_pods(there)}, {ready} of them serve"]
    lines += _number(spec, status, now)
    conditions = {each["type"]: each for each in status.get("conditions", [])}
    for kind, each in conditions.items():
        if each["status"] == "False" and kind != ConditionType.SCALING_ACTIVE:
            lines.append(f"{kind} is False ({each['reason']}): {each['message']}")
    lines += _history(status, now)
    return "\n".join(lines)


def _number(spec: dict[str, Any], status: dict[str, Any], now: datetime) -> list[str]:
    conditions = {each["type"]: each for each in status.get("conditions", [])}
    active = conditions.get(ConditionType.SCALING_ACTIVE)
    if "scaling" not in spec:
        asked = spec.get("replicas")
        said = "replicas is not given: one runs" if asked is None else f"replicas is {asked}"
        conflict = [] if active is None else [f"{active['reason']}: {active['message']}"]
        return [*conflict, f"{said}, and no `scaling` follows the load"]
    bounds = f"between {spec['scaling'].get('minReplicas', 1)} and {spec['scaling']['maxReplicas']}"
    told = status.get("scaling")
    if active is None or told is None:
        return [f"scaling is {bounds} pods; the operator has not decided yet"]
    ago = _ago(told["time"], now)
    lines = [f"{active['reason']}: {active['message']}"]
    if active["reason"] != told["reason"]:
        lines.append(f"the load asks for {_pods(told['desiredReplicas'])}: {told['message']}")
    return [*lines, f"written {ago}; scaling is {bounds} pods"]


def _history(status: dict[str, Any], now: datetime) -> list[str]:
    changes = (status.get("scaling") or {}).get("history", [])
    if not changes:
        return []
    rows = [
        f"  {_ago(each['time'], now):>10}  {each['fromReplicas']} → {each['toReplicas']}  "
        f"{each['reason']}: {each['message']}"
        for each in changes
    ]
    return ["changes, the newest first:", *rows]


def _pods(count: int) -> str:
    return f"{count} pod" if count == 1 else f"{count} pods"


def _ago(text: str, now: datetime) -> str:
    seconds = max(0, int((now - datetime.fromisoformat(text)).total_seconds()))
    if seconds < 120:
        return f"{seconds} s ago"
    return f"{seconds // 60} min ago" if seconds < 7200 else f"{seconds // 3600} h ago"
