"""What a router is made of: with how few rights, and who reaches it."""

from typing import Any

import pytest

from aweigh_api import flags, names
from aweigh_api.spec import InferenceService
from aweigh_operator import desired
from aweigh_operator.desired import Chosen
from aweigh_operator.observe import Manifest
from aweigh_operator.places import PLACES, PODS_SERVICE, ROUTER_DEPLOYMENT, places
from aweigh_operator.route import Route, Way
from aweigh_router import settings
from tests.operator import fakes

PEERS = [{"podSelector": {"matchLabels": {"app": "web"}}}]


def owner(**spec: Any) -> InferenceService:
    return InferenceService.model_validate(fakes.service({"replicas": 2, **spec}))


def children(closed: bool = True, **spec: Any) -> dict[str, Manifest]:
    route = Route(Way(by_router=True, closed=closed), routers=2, supplied=True)
    service, chosen = owner(**spec), Chosen(replicas=2, route=route)
    made = desired.templates(service, {}, fakes.SETTINGS)
    return desired.children(service, made, fakes.SETTINGS, chosen)


def pod(**spec: Any) -> Manifest:
    found: Manifest = children(**spec)[ROUTER_DEPLOYMENT]["spec"]["template"]["spec"]
    return found


def api(place: str, closed: bool = True, **spec: Any) -> Manifest:
    """Who may use the API, as this NetworkPolicy says it."""
    found: Manifest = children(closed, **spec)[place]["spec"]["ingress"][0]
    return found


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {
            "auth": {"apiKeys": {"secretRef": {"name": "keys"}}},
            "tls": {"secretRef": {"name": "certificate"}},
            "drain": {"settleSeconds": 1, "timeoutSeconds": 2},
            "model": {"uri": "builtin://helmsman-8m", "name": "ask"},
        },
    ],
    ids=["plain", "guarded"],
)
def test_a_router_understands_what_it_is_started_with(parts: Manifest) -> None:
    (container,) = pod(**parts)["containers"]
    assert container["args"] == flags.router_arguments(owner(**parts))
    chosen = settings.read(container["args"], {})
    assert (chosen.service, chosen.namespace, chosen.pods_service) == ("chat", "team", "chat-pods")
    assert str(chosen.router_secret_dir) == names.ROUTER_SECRET_MOUNT
    assert (chosen.api_keys_dir is not None, chosen.tls_dir is not None) == (
        "auth" in parts,
        "tls" in parts,
    )
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    given = {chosen.router_secret_dir, chosen.api_keys_dir, chosen.tls_dir}
    assert {str(each) for each in given if each is not None} <= mounted


def test_a_routers_pod_is_restricted_and_has_no_model() -> None:
    spec = pod(model={"uri": "pvc://weights/llama", "secretRef": None})
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["image"] == fakes.ROUTER_IMAGE
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert {volume["name"] for volume in spec["volumes"]} == {"tmp", "router-secret"}
    assert "nvidia.com/gpu" not in str(container["resources"])


def test_of_all_pods_routers_alone_get_a_token_which_reads_endpoint_slices() -> None:
    found = children()
    assert found["Deployment"]["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
    assert pod()["automountServiceAccountToken"] is True
    assert pod()["serviceAccountName"] == "chat-router"
    (rule,) = found["Role-router"]["rules"]
    assert rule["resources"] == ["endpointslices"]
    assert rule["verbs"] == ["list", "watch"]
    binding = found["RoleBinding-router"]
    assert binding["roleRef"]["name"] == found["Role-router"]["metadata"]["name"]
    (subject,) = binding["subjects"]
    assert (subject["name"], subject["namespace"]) == ("chat-router", "team")


def test_pods_are_open_to_routers_alone_and_routers_to_clients() -> None:
    router = [{"podSelector": {"matchLabels": names.router_selector("chat")}}]
    assert api("NetworkPolicy")["from"] == router
    assert "from" not in api("NetworkPolicy-router")
    given: Any = {"networkPolicy": {"ingressFrom": PEERS}}
    assert api("NetworkPolicy", **given)["from"] == router
    assert api("NetworkPolicy-router", **given)["from"] == PEERS
    assert "from" not in api("NetworkPolicy", closed=False)
    assert api("NetworkPolicy", closed=False, **given)["from"] == [*PEERS, *router]
    off = children(networkPolicy={"enabled": False})
    assert not [place for place in off if place.startswith("NetworkPolicy")]


def test_what_pods_may_reach_is_not_what_routers_may() -> None:
    found = children(model={"uri": "hf://org/model"})
    pods = found["NetworkPolicy"]["spec"]["podSelector"]
    (others,) = pods["matchExpressions"]
    assert others == {"key": names.LABEL_NAME, "operator": "NotIn", "values": [names.ROUTER]}
    dns, to_pods, to_api_server = found["NetworkPolicy-router"]["spec"]["egress"]
    assert [port["port"] for port in dns["ports"]] == [53, 53]
    assert to_pods["to"] == [{"podSelector": {"matchLabels": names.selector("chat")}}]
    assert [port["port"] for port in to_api_server["ports"]] == [443, 6443]


def test_the_service_leads_to_routers_and_another_one_to_pods() -> None:
    found = children()
    assert found["Service"]["spec"]["selector"] == names.router_selector("chat")
    pods = found[PODS_SERVICE]
    assert pods["metadata"]["name"] == "chat-pods"
    assert pods["spec"]["selector"] == names.selector("chat")
    assert pods["spec"]["clusterIP"] == "None"


def test_a_node_drain_leaves_a_router() -> None:
    budget = children()["PodDisruptionBudget-router"]["spec"]
    assert budget["minAvailable"] == 1
    assert budget["selector"]["matchLabels"] == names.router_selector("chat")


def test_a_name_with_an_ending_can_be_two_places() -> None:
    assert places("Deployment", "chat-router") == [
        ("chat", "Deployment-router"),
        ("chat-router", "Deployment"),
    ]
    assert places("Role", "chat-router") == [("chat", "Role-router")]
    assert places("Job", "chat-router") == [("chat-router", "Job")]
    assert len(PLACES) == len(set(PLACES))
