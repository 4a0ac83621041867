"""What the real API server refuses, and with which words."""

import json
from typing import Any

import pytest

from tests.api.refusals import AMOUNTS, OUT_OF_RANGE, REFUSALS, Refusal, manifest, spec
from tests.cluster.cluster import Cluster, CommandFailed

pytestmark = pytest.mark.cluster


def refusal_of(cluster: Cluster, namespace: str, body: dict[str, Any]) -> str:
    """What kubectl prints when the API server refuses `body`."""
    with pytest.raises(CommandFailed) as refused:
        cluster.kubectl(
            "create", "--dry-run=server", "-n", namespace, "-f", "-", input=json.dumps(body)
        )
    return str(refused.value)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.title)
def test_a_contradiction_is_refused_with_a_sentence(
    cluster: Cluster, namespace: str, operator: None, refusal: Refusal
) -> None:
    answer = refusal_of(cluster, namespace, manifest(refusal.name, refusal.spec))
    assert refusal.sentence in answer


@pytest.mark.parametrize(
    ("spec", "path"), [case[1:] for case in OUT_OF_RANGE], ids=[case[0] for case in OUT_OF_RANGE]
)
def test_a_value_out_of_range_is_refused_with_its_path(
    cluster: Cluster, namespace: str, operator: None, spec: dict[str, Any], path: str
) -> None:
    assert path in refusal_of(cluster, namespace, manifest("chat", spec))


def test_memory_is_taken_in_each_notation(cluster: Cluster, namespace: str, operator: None) -> None:
    for amount, _ in AMOUNTS:
        parts = spec(prefixCache={"size": amount}, resources={"limits": {"memory": amount}})
        body = json.dumps(manifest("chat", parts))
        cluster.kubectl("create", "--dry-run=server", "-n", namespace, "-f", "-", input=body)


def test_defaults_are_filled_in_where_users_see_them(
    cluster: Cluster, namespace: str, operator: None
) -> None:
    stored = json.loads(
        cluster.kubectl(
            "create", "--dry-run=server", "-o", "json", "-n", namespace, "-f", "-",
            input=json.dumps(manifest("chat", spec())),
        )
    )  # fmt: skip
    assert stored["spec"] == {
        "model": {"uri": "builtin://helmsman-8m", "dtype": "auto"},
        "quantization": {"scheme": "auto", "kvCacheDtype": "auto"},
        "prefixCache": {"enabled": True, "scope": "Key"},
        "rollout": {"progressDeadlineSeconds": 1800, "allowDowntime": False},
        "drain": {"settleSeconds": 5, "timeoutSeconds": 120},
        "networkPolicy": {"enabled": True},
        "suspend": False,
    }


def test_kubectl_explains_every_field(cluster: Cluster, operator: None) -> None:
    answer = cluster.kubectl("explain", "infs.spec", "--recursive")
    assert "maxModelLen" in answer
    assert "settleSeconds" in cluster.kubectl("explain", "infs.spec.drain")


def test_kubectl_scale_changes_the_replicas(
    cluster: Cluster, namespace: str, operator: None
) -> None:
    cluster.apply(manifest("chat", spec(suspend=True)), namespace)
    cluster.kubectl("scale", "infs/chat", "--replicas=3", "-n", namespace)
    stored = cluster.get("infs", "chat", namespace)
    assert stored is not None
    assert stored["spec"]["replicas"] == 3
