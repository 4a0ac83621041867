"""What the operator's pod may do: as little as it needs, in the cluster and on its node."""

from typing import Any

import pytest

from aweigh_api import names
from aweigh_api.spec import InferenceService
from aweigh_operator.desired import router_rights
from aweigh_operator.settings import Settings, read
from tests.chart.render import NAMESPACED, Manifest, manifests, of_kind
from tests.operator import fakes

FORBIDDEN_RESOURCES = {"*", "nodes", "namespaces", "pods/exec", "clusterroles"}
FORBIDDEN_VERBS = {"*", "escalate", "bind", "impersonate", "deletecollection"}


def rules(found: list[Manifest]) -> list[dict[str, Any]]:
    """The rules of the operator itself, not those that people get."""
    roles = [*of_kind("ClusterRole", found), *of_kind("Role", found)]
    own = [role for role in roles if not _aggregated(role)]
    return [rule for role in own for rule in role["rules"]]


def _aggregated(role: Manifest) -> bool:
    return any("aggregate-to" in label for label in role["metadata"]["labels"])


def pod() -> dict[str, Any]:
    (deployment,) = of_kind("Deployment", manifests())
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("values", [(), NAMESPACED], ids=["cluster", "namespaced"])
def test_the_operator_gets_no_wildcard_reads_no_secret_and_cannot_escalate(
    values: tuple[str, ...],
) -> None:
    found = rules(manifests(*values))
    assert found
    for rule in found:
        assert "*" not in rule["apiGroups"]
        assert not FORBIDDEN_RESOURCES & set(rule["resources"])
        assert not FORBIDDEN_VERBS & set(rule["verbs"])
        assert "secrets" not in rule["resources"] or rule["verbs"] == ["create"]


def test_the_operator_cannot_change_what_users_want() -> None:
    own = [rule for rule in rules(manifests()) if rule["resources"] == [names.PLURAL]]
    assert [rule["verbs"] for rule in own] == [["get", "list", "watch"]]


def test_only_what_may_become_unwanted_can_be_deleted() -> None:
    deletable = [rule["resources"] for rule in rules(manifests()) if "delete" in rule["verbs"]]
    assert deletable == [
        ["deployments"],
        ["services", "serviceaccounts"],
        ["roles", "rolebindings"],
        ["networkpolicies"],
        ["jobs"],
        ["poddisruptionbudgets"],
    ]


def test_the_operators_settings_come_from_the_values() -> None:
    (container,) = pod()["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    settings = read([], environment)
    assert settings == Settings(
        runtime_image="registry.example.com/aweigh-runtime:1",
        router_image="registry.example.com/aweigh-router:1",
        api_server_ports=(443, 6443, 8443, 16443),
        lease="aweigh-system/aweigh-operator",
    )


def test_a_role_that_the_operator_makes_holds_no_right_that_it_lacks() -> None:
    """Else the API server would refuse it: nobody gives what he has not."""
    owner = InferenceService.model_validate(fakes.service())
    (wanted,) = router_rights.role(owner)["rules"]
    assert wanted in rules(manifests())


def test_namespaced_mode_reaches_the_operator() -> None:
    (deployment,) = of_kind("Deployment", manifests(*NAMESPACED))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    images = {"AWEIGH_RUNTIME_IMAGE": "x", "AWEIGH_ROUTER_IMAGE": "y"}
    settings = read(container["args"], images)
    assert settings.namespaces == ("team-a", "team-b")


def test_both_modes_give_the_same_rights() -> None:
    in_cluster = rules(manifests())
    assert _sorted(rules(manifests("watchNamespaces={team-a}"))) == _sorted(in_cluster)


def _sorted(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(found, key=str)


def test_of_leases_it_may_touch_its_own_alone() -> None:
    (role,) = of_kind("Role", manifests())
    assert role["metadata"]["namespace"] == "aweigh-system"
    create, hold = role["rules"]
    assert (create["resources"], create["verbs"]) == (["leases"], ["create"])
    (lease,) = of_kind("Lease", manifests())
    assert hold["resourceNames"] == [lease["metadata"]["name"]]
    assert (hold["resourceNames"], hold["verbs"]) == (["aweigh-operator"], ["get", "update"])


def test_two_operators_stand_on_two_nodes_and_a_drain_leaves_one() -> None:
    found = manifests("operator.replicas=2")
    (deployment,) = of_kind("Deployment", found)
    assert deployment["spec"]["replicas"] == 2
    (budget,) = of_kind("PodDisruptionBudget", found)
    labels = deployment["spec"]["selector"]["matchLabels"]
    assert budget["spec"] == {"minAvailable": 1, "selector": {"matchLabels": labels}}
    (term,) = deployment["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"][
        "preferredDuringSchedulingIgnoredDuringExecution"
    ]
    assert term["podAffinityTerm"]["labelSelector"]["matchLabels"] == labels
    assert of_kind("PodDisruptionBudget", manifests()) == []


def test_the_pod_satisfies_the_restricted_profile() -> None:
    spec = pod()
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert all(set(volume) <= {"name", "emptyDir"} for volume in spec["volumes"])
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_operator_reaches_the_state_of_all_that_it_asks() -> None:
    (policy,) = of_kind("NetworkPolicy", manifests())
    (peers,) = (each["to"] for each in policy["spec"]["egress"] if "to" in each)
    (expression,) = peers[0]["podSelector"]["matchExpressions"]
    assert (expression["key"], expression["operator"]) == (names.LABEL_NAME, "In")
    assert set(expression["values"]) == {names.RUNTIME, names.PREFETCH, names.ROUTER}


def test_probes_and_resources_are_there() -> None:
    (container,) = pod()["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"probes": names.OPERATOR_PROBE_PORT, "metrics": names.OPERATOR_METRICS_PORT}
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "probes"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "probes"}
    assert container["resources"]["limits"]["memory"] == "256Mi"
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}


def test_no_service_of_the_namespace_can_set_a_flag_of_the_operator() -> None:
    assert pod()["enableServiceLinks"] is False


def test_only_the_pod_of_the_operator_gets_its_token() -> None:
    (account,) = of_kind("ServiceAccount", manifests())
    assert account["automountServiceAccountToken"] is False
    assert pod()["automountServiceAccountToken"] is True


def test_people_get_their_rights_through_the_clusters_own_roles() -> None:
    roles = [role for role in of_kind("ClusterRole", manifests()) if _aggregated(role)]
    verbs = {
        role["metadata"]["name"].rsplit(":", 1)[1]: {
            verb for rule in role["rules"] for verb in rule["verbs"]
        }
        for role in roles
    }
    assert verbs == {
        "edit": {"create", "update", "patch", "delete", "deletecollection"},
        "view": {"get", "list", "watch"},
    }
