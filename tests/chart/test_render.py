"""What the chart makes of its values. A changed rendering is reviewed."""

import re
from typing import Any

import pytest
import yaml

from aweigh_api import crd
from tests.chart.render import (
    CHART,
    IMAGES,
    NAMESPACED,
    POD_MONITOR,
    golden,
    helm,
    manifests,
    of_kind,
    parsed,
    template,
)
from tests.cluster import places

Case = tuple[tuple[str, ...], tuple[str, ...]]
CASES: dict[str, Case] = {  # values, and kinds that the cluster knows
    "default": ((), ()),
    "namespaced": (NAMESPACED, ()),
    "monitored": ((), (POD_MONITOR,)),
}
WITHOUT_CRD = "crds.install=false"  # it has a test of its own

PARTS = ("operator", "runtime", "router")


@pytest.mark.parametrize("name", CASES)
def test_the_rendering_is_the_one_that_was_reviewed(name: str) -> None:
    values, kinds = CASES[name]
    assert manifests(WITHOUT_CRD, *values, kinds=kinds) == parsed(golden(name).read_text()), (
        "the chart renders differently: run `python -m tests.chart` and review what changed in "
        f"tests/chart/golden/{name}.yaml"
    )


def test_lint_finds_nothing() -> None:
    settings = [argument for value in IMAGES for argument in ("--set", value)]
    done = helm("lint", "--strict", str(CHART), *settings)
    assert done.returncode == 0, done.stdout


def test_the_definition_is_the_generated_one_and_stays_on_uninstall() -> None:
    (definition,) = of_kind("CustomResourceDefinition", manifests())
    annotations = definition["metadata"].pop("annotations")
    assert annotations == {"helm.sh/resource-policy": "keep"}
    assert definition == crd.definition()


def test_the_charts_copy_of_the_definition_is_the_one_in_crds() -> None:
    copy = CHART / "files" / "inferenceservices.yaml"
    original = places.CHECKOUT / "crds" / "inferenceservices.yaml"
    assert copy.read_text() == original.read_text(), "run `make crds`"


def test_the_definition_can_be_left_to_another_release() -> None:
    assert of_kind("CustomResourceDefinition", manifests(WITHOUT_CRD)) == []


def test_namespaced_mode_gives_no_right_outside_the_namespaces() -> None:
    found = manifests(*NAMESPACED, "rbac.aggregate=false")
    assert of_kind("ClusterRole", found) == of_kind("ClusterRoleBinding", found) == []
    roles = of_kind("Role", found)
    assert [role["metadata"]["namespace"] for role in roles] == [
        "aweigh-system",  # its Lease
        "team-a",
        "team-b",
    ]
    (deployment,) = of_kind("Deployment", found)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["--namespace=team-a", "--namespace=team-b"]


def test_notes_tell_the_next_command() -> None:
    done = helm(
        "install", "aweigh", str(CHART), "--dry-run=client", "--namespace", "aweigh-system",
        *[argument for value in IMAGES for argument in ("--set", value)],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    notes = done.stdout.split("NOTES:")[1]
    assert "kubectl rollout status deployment/aweigh-operator --namespace aweigh-system" in notes
    inside = notes.split("<<EOF\n")[1].split("EOF")[0]
    assert yaml.safe_load(inside)["spec"] == {"model": {"uri": "builtin://helmsman-8m"}}


def test_images_may_be_named_by_digest() -> None:
    digest = "sha256:" + 16 * "ab12"
    names = {each: f"registry.example.com:5000/{each}@{digest}" for each in PARTS}
    found = manifests(*[f"{each}.image={name}" for each, name in names.items()])
    (deployment,) = [each for each in found if each["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    told = {each["name"]: each.get("value") for each in container["env"]}
    assert container["image"] == names["operator"]
    assert told["AWEIGH_RUNTIME_IMAGE"] == names["runtime"]
    assert told["AWEIGH_ROUTER_IMAGE"] == names["router"]


@pytest.mark.parametrize("missing", ["operator.image", "runtime.image"])
def test_an_image_that_is_not_given_is_asked_for(missing: str) -> None:
    done = template(*[value for value in IMAGES if not value.startswith(missing)])
    assert done.returncode != 0
    assert re.search(f"{missing} is empty; expected the full reference", done.stderr)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("operatr.image=x", "additional properties 'operatr' not allowed"),
        ("operator.imge=x", "additional properties 'imge' not allowed"),
        ("operator.imagePullPolicy=Sometimes", "must be one of 'Always', 'IfNotPresent', 'Never'"),
        ("watchNamespaces={Team_A}", "does not match pattern"),
        ("crds.install=maybe", "got string, want boolean"),
        ("networkPolicy.apiServerPorts={0}", "minimum: got 0, want 1"),
    ],
)
def test_a_wrong_value_is_refused_with_a_sentence(value: str, sentence: str) -> None:
    done = template(*IMAGES, value)
    assert done.returncode != 0
    assert sentence in done.stderr


def test_every_value_has_a_schema() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    assert _undeclared(values, schema) == []


@pytest.mark.parametrize(("enabled", "with_kind"), [("true", False), ("auto", True)])
def test_pod_monitors_are_made_where_asked_for_or_where_the_cluster_knows_them(
    enabled: str, with_kind: bool
) -> None:
    kinds = (POD_MONITOR,) if with_kind else ()
    found = manifests(f"metrics.podMonitor.enabled={enabled}", kinds=kinds)
    monitor, _ = of_kind("PodMonitor", found)
    # Else the namespaces of InferenceServices would give way to the operator's.
    endpoint = {"port": "metrics", "honorLabels": True, "interval": "30s"}
    assert monitor["spec"]["podMetricsEndpoints"] == [endpoint]


@pytest.mark.parametrize(("enabled", "with_kind"), [("auto", False), ("false", True)])
def test_pod_monitors_are_not_made_where_nobody_knows_them_or_wants_them(
    enabled: str, with_kind: bool
) -> None:
    kinds = (POD_MONITOR,) if with_kind else ()
    assert (
        of_kind("PodMonitor", manifests(f"metrics.podMonitor.enabled={enabled}", kinds=kinds)) == []
    )


def _undeclared(values: dict[str, Any], schema: dict[str, Any], path: str = "") -> list[str]:
    missing = []
    for name, value in values.items():
        declared = schema.get("properties", {}).get(name)
        if declared is None:
            missing.append(f"{path}{name}")
        elif isinstance(value, dict) and "properties" in declared:
            missing += _undeclared(value, declared, f"{path}{name}.")
    return missing
