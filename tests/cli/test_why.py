"""What `aweigh why` says of an InferenceService."""

from datetime import UTC, datetime
from typing import Any

from aweigh_cli.why import explained

NOW = datetime(2026, 11, 28, 12, 0, 0, tzinfo=UTC)
CHANGE = {
    "time": "2026-11-28T11:30:00Z",
    "fromReplicas": 1,
    "toReplicas": 3,
    "reason": "LoadGrew",
    "message": "1 → 3 pods: 3 for the load",
}


def body(spec: dict[str, Any], scaling: dict[str, Any] | None, *conditions: Any) -> dict[str, Any]:
    fields = ("type", "status", "reason", "message")
    status: dict[str, Any] = {
        "replicas": 3,
        "readyReplicas": 2,
        "conditions": [dict(zip(fields, each, strict=True)) for each in conditions],
    }
    if scaling is not None:
        status["scaling"] = scaling
    metadata = {"namespace": "team", "name": "chat"}
    return {"metadata": metadata, "spec": spec, "status": status}


def test_the_number_is_explained_with_its_history() -> None:
    told = {
        "desiredReplicas": 3,
        "reason": "Steady",
        "message": "stays at 3: 9 requests/s",
        "time": "2026-11-28T11:59:30Z",
        "history": [CHANGE],
    }
    active = ("ScalingActive", "True", "Steady", "stays at 3: 9 requests/s")
    ready = ("Ready", "False", "Progressing", "2 of 3 pods serve")
    found = explained(body({"scaling": {"maxReplicas": 4}}, told, ready, active), NOW)
    assert found.splitlines() == [
        "team/chat: 3 pods, 2 of them serve",
        "Steady: stays at 3: 9 requests/s",
        "written 30 s ago; scaling is between 1 and 4 pods",
        "Ready is False (Progressing): 2 of 3 pods serve",
        "changes, the newest first:",
        "  30 min ago  1 → 3  LoadGrew: 1 → 3 pods: 3 for the load",
    ]


def test_without_scaling_the_spec_is_the_reason() -> None:
    assert "replicas is 3, and no `scaling` follows the load" in explained(
        body({"replicas": 3}, None), NOW
    )
    conflict = ("ScalingActive", "False", "Conflict", "HorizontalPodAutoscaler theirs scales")
    found = explained(body({}, None, conflict), NOW).splitlines()
    assert found[1] == "Conflict: HorizontalPodAutoscaler theirs scales"
    assert found[2].startswith("replicas is not given: one runs")


def test_a_service_that_the_operator_has_not_seen_yet() -> None:
    fresh = {
        "metadata": {"namespace": "team", "name": "chat"},
        "spec": {"scaling": {"maxReplicas": 2}},
    }
    assert explained(fresh, NOW).splitlines() == [
        "team/chat: 0 pods, 0 of them serve",
        "scaling is between 1 and 2 pods; the operator has not decided yet",
    ]
