"""What somebody adds to the pods of our Deployments by hand is told and left alone."""

import copy

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


@pytest.mark.parametrize("place", ["Deployment", "Deployment-router"])
async def test_only_pods_that_get_the_template_are_sent_there(place: str) -> None:
    operator = await settled()

    def set_env(body: Manifest) -> None:
        pods(body)["containers"][0].setdefault("env", []).append({"name": "DEBUG", "value": "1"})

    operator.cluster.edit(place, set_env)
    await operator.settle()
    name = at(place)[1].name
    _, _, message = operator.condition("SpecValid")
    assert f"take it away with `kubectl edit deployment {name}`" in message
    assert ("belongs into `template`" in message) is (place == "Deployment")


async def test_what_somebody_added_is_kept_and_told_through_a_rollout_of_ours() -> None:
    operator = await settled()

    def set_env(body: Manifest) -> None:
        pods(body)["containers"][0]["env"].append({"name": "DEBUG", "value": "1"})

    operator.cluster.edit("Deployment", set_env)
    await operator.settle()
    operator.cluster.edit(names.KIND, lambda body: body["spec"].pop("template"))
    await operator.settle()
    deployment = operator.cluster.objects[at("Deployment")]
    variables = {each["name"] for each in pods(deployment)["containers"][0]["env"]}
    assert "DEBUG" in variables
    assert "HF_ENDPOINT" not in variables
    assert operator.times_told("Drifted") == 1
    assert operator.condition("SpecValid")[1] == "Drifted"


async def test_what_we_are_about_to_take_away_is_nobodys_addition() -> None:
    """The new pods wait for a download, and so does the Deployment for its new template."""
    cluster = FakeCluster()
    cache = {"claim": "downloads", "prefetch": True}
    model = {"uri": "hf://acme/navigator", "cache": cache}
    cluster.put(fakes.service({**FULL, "model": model}))
    operator = Operator(cluster)
    await operator.settle()
    cluster.run_pods()
    await operator.settle()
    cluster.jobs_end = False
    spec = {"model": {**model, "revision": "next"}, "replicas": 2}
    cluster.edit(names.KIND, lambda body: body.update(spec=spec))
    await operator.settle()
    assert operator.condition("Ready")[1] == "Downloading"
    assert "nodeSelector" in pods(cluster.objects[at("Deployment")])
    assert operator.condition("SpecValid")[:2] == ("True", "Valid")


SPECS: dict[str, Manifest] = {
    "the least": {},
    "much": FULL,
    "from a claim": {"model": {"uri": "pvc://models/navigator"}},
    "with a cache": {
        "model": {"uri": "hf://a/b", "cache": {"claim": "c"}, "secretRef": {"name": "s"}}
    },
    "with keys and places": {
        "auth": {"apiKeys": {"secretRef": {"name": "keys"}}},
        "template": {
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "affinity": {"podAntiAffinity": {}},
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "DoNotSchedule",
                }
            ],
            "labels": {"team": "a"},
            "annotations": {"note": "b"},
        },
    },
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
async def test_what_the_api_server_fills_in_is_nobodys_addition(spec: Manifest) -> None:
    cluster = FakeCluster()
    cluster.put(fakes.service({"replicas": 2, **spec}))
    operator = Operator(cluster)
    await operator.settle()
    for place in ("Deployment", "Deployment-router"):
        there, ours = cluster.objects[at(place)], cluster.applied[at(place)]
        assert pods(there)["schedulerName"] == "default-scheduler"
        assert list(drift.added(there, ours)) == []
    assert operator.condition("SpecValid")[1] == "Valid"


PROXY = {"name": "proxy", "image": "x"}
OF_POD: tuple[tuple[Manifest, str], ...] = (
    ({"containers": [PROXY]}, "containers[proxy]"),
    ({"initContainers": [PROXY]}, "initContainers[proxy]"),
    ({"volumes": [{"name": "more", "emptyDir": {}}]}, "volumes[more]"),
    ({"hostNetwork": True}, "hostNetwork"),
    ({"priorityClassName": "high"}, "priorityClassName"),
    ({"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["hub"]}]}, "hostAliases"),
    ({"dnsConfig": {"nameservers": ["10.0.0.1"]}}, "dnsConfig"),
    ({"dnsPolicy": "Default"}, "dnsPolicy"),
    ({"schedulerName": "theirs"}, "schedulerName"),
    ({"securityContext": {"supplementalGroups": [0]}}, "securityContext.supplementalGroups"),
    ({"serviceAccount": "theirs"}, "serviceAccount"),
)
OF_CONTAINER: tuple[tuple[Manifest, str], ...] = (
    ({"volumeMounts": [{"name": "tmp", "mountPath": "/more"}]}, "volumeMounts[/more]"),
    ({"volumeDevices": [{"name": "disk", "devicePath": "/dev/x"}]}, "volumeDevices"),
    ({"envFrom": [{"configMapRef": {"name": "x"}}]}, "envFrom"),
    ({"env": [{"name": "X", "value": "1"}]}, "env[X]"),
    ({"ports": [{"containerPort": 5678, "protocol": "TCP"}]}, "ports[5678/TCP]"),
    ({"resources": {"limits": {"nvidia.com/gpu": "1"}}}, "resources.limits.nvidia.com/gpu"),
    (
        {"securityContext": {"capabilities": {"add": ["NET_RAW"]}}},
        "securityContext.capabilities.add",
    ),
    ({"securityContext": {"runAsUser": 0}}, "securityContext.runAsUser"),
    ({"securityContext": {"runAsNonRoot": False}}, "securityContext.runAsNonRoot"),
    ({"livenessProbe": {"initialDelaySeconds": 9}}, "livenessProbe.initialDelaySeconds"),
    ({"lifecycle": {"preStop": {"sleep": {"seconds": 9}}}}, "lifecycle"),
    ({"stdin": True}, "stdin"),
)
CASES = [
    *OF_POD,
    *(({"containers": [each]}, f"containers[runtime].{path}") for each, path in OF_CONTAINER),
]


def put_into(there: Manifest, change: Manifest) -> None:
    for field, value in change.items():
        if field == "containers" and "name" not in value[0]:
            put_into(there["containers"][0], value[0])
        elif isinstance(value, list):
            there[field] = [*there.get(field, []), *value]
        elif isinstance(value, dict) and field in there:
            put_into(there[field], value)
        else:
            there[field] = value


@pytest.mark.parametrize(("change", "path"), CASES, ids=[path for _, path in CASES])
async def test_whatever_is_added_to_a_pod_or_its_container_is_named(
    change: Manifest, path: str
) -> None:
    operator = await settled()
    ours = operator.cluster.applied[at("Deployment")]
    operator.cluster.edit("Deployment", lambda body: put_into(pods(body), change))
    there = operator.cluster.objects[at("Deployment")]
    assert list(drift.added(there, ours)) == [path]
    await operator.settle()
    assert path in operator.condition("SpecValid")[2]


async def test_a_port_of_the_node_and_labels_of_pods_are_named() -> None:
    operator = await settled()
    ours = operator.cluster.applied[at("Deployment")]
    there = copy.deepcopy(operator.cluster.objects[at("Deployment")])
    pods(there)["containers"][0]["ports"][0]["hostPort"] = 8000
    metadata = there["spec"]["template"]["metadata"]
    metadata["labels"]["team"] = "a"
    metadata["annotations"]["sidecar.istio.io/inject"] = "true"
    assert list(drift.added(there, ours)) == [
        "labels[team]",
        "annotations[sidecar.istio.io/inject]",
        "containers[runtime].ports[8000/TCP].hostPort",
    ]


async def test_a_restart_by_hand_and_what_follows_from_limits_are_no_additions() -> None:
    operator = await settled()
    ours = operator.cluster.applied[at("Deployment")]
    there = copy.deepcopy(operator.cluster.objects[at("Deployment")])
    annotations = there["spec"]["template"]["metadata"]["annotations"]
    annotations["kubectl.kubernetes.io/restartedAt"] = fakes.NOW_TEXT
    pods(there)["containers"][0]["resources"]["requests"] = {"cpu": "2", "memory": "4Gi"}
    assert list(drift.added(there, ours)) == []
