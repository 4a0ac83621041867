"""What somebody adds to the pods of our Deployments by hand is told and left alone."""

import copy
from typing import Any

import pytest

from aweigh_api import names
from aweigh_operator import drift
from aweigh_operator.observe import Manifest
from tests.operator import fakes
from tests.operator.fakes import FakeCluster, Operator, at

FULL: Manifest = {
    "replicas": 2,
    "resources": {"limits": {"cpu": "2", "memory": "4Gi"}},
    "template": {"nodeSelector": {"gpu": "h200"}, "env": [{"name": "HF_ENDPOINT", "value": "x"}]},
    "tls": {"secretRef": {"name": "certificate"}},
}


async def settled() -> Operator:
    cluster = FakeCluster()
    cluster.put(fakes.service(FULL))
    operator = Operator(cluster)
    await operator.settle()
    cluster.run_pods()
    await operator.settle()
    return operator


def pods(deployment: Manifest) -> Manifest:
    found: Manifest = deployment["spec"]["template"]["spec"]
    return found


async def test_a_variable_that_somebody_sets_is_told_until_it_is_gone() -> None:
    operator = await settled()
    assert operator.condition("SpecValid")[:2] == ("True", "Valid")
    before = copy.deepcopy(operator.cluster.objects[at("Deployment")])

    def set_env(body: Manifest) -> None:
        pods(body)["containers"][0]["env"].append({"name": "DEBUG", "value": "1"})

    operator.cluster.edit("Deployment", set_env)
    edited = copy.deepcopy(operator.cluster.objects[at("Deployment")])
    await operator.settle()
    status, reason, message = operator.condition("SpecValid")
    assert (status, reason) == ("True", "Drifted")
    assert "somebody has added containers[runtime].env[DEBUG] to the pods of Deployment" in message
    assert operator.condition("Ready")[:2] == ("True", "Ready")
    assert operator.cluster.objects[at("Deployment")] == edited
    (told,) = [each for each in operator.cluster.events if each["reason"] == "Drifted"]
    assert told["type"] == "Warning"
    operator.cluster.put(before)
    await operator.settle()
    assert operator.condition("SpecValid")[:2] == ("True", "Valid")


async def test_what_we_take_away_ourselves_is_nobodys_addition() -> None:
    operator = await settled()
    cluster = operator.cluster
    spec = {"model": fakes.service()["spec"]["model"], "replicas": 2}
    cluster.put({**cluster.objects[at(names.KIND)], "spec": spec})
    await operator.reconcile()
    assert operator.condition("SpecValid")[:2] == ("True", "Valid")


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"containers": [{"name": "proxy", "image": "x"}]}, "containers[proxy]"),
        ({"initContainers": [{"name": "first", "image": "x"}]}, "initContainers[first]"),
        ({"volumes": [{"name": "more", "emptyDir": {}}]}, "volumes[more]"),
        ({"hostNetwork": True}, "hostNetwork"),
        ({"priorityClassName": "high"}, "priorityClassName"),
        (
            {"volumeMounts": [{"name": "tmp", "mountPath": "/more"}]},
            "containers[runtime].volumeMounts[/more]",
        ),
        ({"envFrom": [{"configMapRef": {"name": "x"}}]}, "containers[runtime].envFrom"),
        (
            {"limits": {"nvidia.com/gpu": "1"}},
            "containers[runtime].resources.limits.nvidia.com/gpu",
        ),
        ({"restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "hostPID": False}, None),
        ({"requests": {"cpu": "2"}}, None),  # follows from the limits
    ],
)
async def test_each_addition_is_named_and_what_the_api_server_fills_in_is_none(
    change: dict[str, Any], path: str | None
) -> None:
    operator = await settled()
    ours = operator.cluster.applied[at("Deployment")]
    there = copy.deepcopy(operator.cluster.objects[at("Deployment")])
    spec, (container,) = pods(there), pods(there)["containers"]
    for field, value in change.items():
        if field in ("envFrom", "volumeMounts"):
            container[field] = [*container.get(field, []), *value]
        elif field in ("limits", "requests"):
            container["resources"][field] = {**container["resources"].get(field, {}), **value}
        else:
            spec[field] = [*spec.get(field, []), *value] if isinstance(value, list) else value
    assert list(drift.added(there, ours)) == ([] if path is None else [path])
