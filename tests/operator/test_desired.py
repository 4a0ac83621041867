import json
import random
import string
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aweigh_api import names
from aweigh_api.spec import InferenceService
from aweigh_api.template import EnvVar
from aweigh_operator import desired
from aweigh_operator.desired import Chosen, record, template
from aweigh_operator.observe import Manifest
from aweigh_operator.places import name_at
from aweigh_operator.route import STRAIGHT, Route, Way
from tests.operator import fakes

ROUTED = Route(Way(by_router=True, closed=True), routers=2, supplied=True)


def owner(spec: Manifest | None = None, **metadata: Any) -> InferenceService:
    return InferenceService.model_validate(fakes.service(spec, **metadata))


def children(spec: Manifest | None = None, current: Manifest | None = None) -> dict[str, Manifest]:
    return rendered(owner(spec), current)


def rendered(
    service: InferenceService, current: Manifest | None, image: str = fakes.IMAGE
) -> dict[str, Manifest]:
    there = {} if current is None else {"Deployment": current}
    replicas = service.spec.wanted_replicas(None)
    settings = replace(fakes.SETTINGS, runtime_image=image)
    route = ROUTED if service.spec.routed else STRAIGHT
    made = desired.templates(service, there, settings)
    return desired.children(service, made, settings, Chosen(replicas=replicas, route=route))


def pod_spec(spec: Manifest | None = None) -> Manifest:
    found: Manifest = children(spec)["Deployment"]["spec"]["template"]["spec"]
    return found


def container(spec: Manifest | None = None) -> Manifest:
    found: Manifest = pod_spec(spec)["containers"][0]
    return found


def env(spec: Manifest) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container(spec)["env"]}


def test_every_child_is_owned_and_labelled() -> None:
    for place, child in children({"replicas": 2}).items():
        metadata = child["metadata"]
        assert (metadata["name"], metadata["namespace"]) == (name_at(place, "chat"), "team")
        assert metadata["labels"][names.LABEL_INSTANCE] == "chat"
        assert metadata["labels"][names.LABEL_MANAGED_BY] == "aweigh"
        (reference,) = metadata["ownerReferences"]
        assert reference["uid"] == "uid-of-chat"
        assert reference["controller"] is True
        assert reference["blockOwnerDeletion"] is True


def test_pods_satisfy_pod_security_restricted() -> None:
    pods, runtime = pod_spec(), container()
    assert pods["automountServiceAccountToken"] is False
    assert pods["securityContext"]["runAsNonRoot"] is True
    assert pods["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert runtime["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def test_a_service_called_aweigh_sets_no_flag_of_its_pods() -> None:
    assert pod_spec()["enableServiceLinks"] is False


def test_what_the_runtime_writes_to_lies_on_empty_dirs() -> None:
    mounts = {mount["mountPath"]: mount["name"] for mount in container()["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod_spec()["volumes"]}
    assert mounts.pop(names.ROUTER_SECRET_MOUNT) == names.ROUTER_SECRET_VOLUME
    assert set(mounts) == {names.CACHE_MOUNT, "/tmp"}
    assert all("emptyDir" in volumes[name] for name in mounts.values())
    for variable in ("HOME", "HF_HOME", "TRITON_CACHE_DIR"):
        assert env({})[variable].startswith(names.CACHE_MOUNT)


def limits(spec: Manifest) -> dict[str, Any]:
    """How much the pod may write to each of its empty directories."""
    volumes = [each for each in pod_spec(spec)["volumes"] if "emptyDir" in each]
    return {each["name"]: each["emptyDir"].get("sizeLimit") for each in volumes}


def test_a_pod_cannot_fill_its_nodes_disk_unless_with_a_download() -> None:
    assert limits({}) == {"cache": "8Gi", "tmp": "1Gi"}
    assert limits({"model": {"uri": "pvc://weights/llama"}}) == {"cache": "8Gi", "tmp": "1Gi"}
    fetched = {"uri": "hf://acme/llama"}
    assert limits({"model": fetched}) == {"cache": None, "tmp": "1Gi"}
    drafts = {"draftModels": [fetched]}
    assert limits({"speculativeDecoding": drafts}) == {"cache": None, "tmp": "1Gi"}
    assert limits({"model": {**fetched, "cache": {"claim": "downloads"}}}) == {"tmp": "1Gi"}


def test_pods_of_an_older_version_are_not_replaced_to_limit_what_they_write() -> None:
    def unlimited(bare: Manifest) -> None:
        for each in bare["spec"]["volumes"][:2]:
            each["emptyDir"] = {}

    before = recorded(unlimited, signed=True)
    after = children(current=before)["Deployment"]["spec"]["template"]["spec"]["volumes"]
    assert [each.get("emptyDir") for each in after] == [{}, {}, None]


def test_the_users_variables_come_with_ours_and_win() -> None:
    variables = env({"template": {"env": [{"name": "HOME", "value": "/x"}, {"name": "A"}]}})
    assert variables["HOME"] == "/x"
    assert variables["A"] == ""


def test_a_claim_is_mounted_read_only() -> None:
    spec = {"model": {"uri": "pvc://weights/llama/8b"}}
    volume = pod_spec(spec)["volumes"][2]
    assert volume["persistentVolumeClaim"] == {"claimName": "weights", "readOnly": True}
    assert {
        "name": "model",
        "mountPath": f"{names.MODEL_MOUNT}/weights",
        "readOnly": True,
    } in container(spec)["volumeMounts"]


def test_every_claim_of_model_and_drafts_is_mounted_once() -> None:
    drafts = ["pvc://weights/small", "hf://org/draft", "pvc://drafts/a", "pvc://drafts/b"]
    spec = {
        "model": {"uri": "pvc://weights/llama"},
        "speculativeDecoding": {"draftModels": [{"uri": uri} for uri in drafts]},
    }
    volumes = {each["name"]: each for each in pod_spec(spec)["volumes"]}
    mounted = {
        volumes[mount["name"]]["persistentVolumeClaim"]["claimName"]: mount["mountPath"]
        for mount in container(spec)["volumeMounts"]
        if mount["mountPath"].startswith(names.MODEL_MOUNT)
    }
    assert mounted == {"weights": "/mnt/models/weights", "drafts": "/mnt/models/drafts"}


def test_a_secret_is_mounted_and_named_to_the_runtime() -> None:
    spec = {"model": {"uri": "hf://org/model", "secretRef": {"name": "token"}}}
    assert pod_spec(spec)["volumes"][2]["secret"] == {"secretName": "token"}
    assert f"--secret-dir={names.SECRET_MOUNT}" in container(spec)["args"]


@pytest.mark.parametrize(
    ("part", "path"),
    [
        ({"auth": {"apiKeys": {"secretRef": {"name": "given"}}}}, names.API_KEYS_MOUNT),
        ({"tls": {"secretRef": {"name": "given"}}}, names.TLS_MOUNT),
    ],
)
def test_keys_and_certificate_are_mounted_read_only(part: Manifest, path: str) -> None:
    volume = pod_spec(part)["volumes"][-1]
    assert volume["secret"] == {"secretName": "given"}
    assert {"name": volume["name"], "mountPath": path, "readOnly": True} in container(part)[
        "volumeMounts"
    ]


def test_with_a_certificate_the_service_says_https_and_probes_stay_on_the_admin_port() -> None:
    spec = {"tls": {"secretRef": {"name": "certificate"}}}
    (port,) = children(spec)["Service"]["spec"]["ports"]
    assert (port["name"], port["appProtocol"], port["targetPort"]) == ("https", "https", "http")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container(spec)[probe]["httpGet"]["port"] == "admin"
        assert container(spec)[probe]["httpGet"]["scheme"] == "HTTP"


@pytest.mark.parametrize(
    ("resources", "raised"),
    [
        (None, {"requests": {"memory": str(2**30)}}),
        ({"limits": {"cpu": "1"}}, {"limits": {"cpu": "1"}, "requests": {"memory": str(2**30)}}),
        ({"requests": {"memory": "1Gi"}}, {"requests": {"memory": str(2**31)}}),
        ({"limits": {"memory": "1Gi"}}, {"limits": {"memory": str(2**31)}}),
        (
            {"limits": {"memory": "3Gi"}, "requests": {"memory": "500m"}},
            {"limits": {"memory": str(2**32)}, "requests": {"memory": str(2**30 + 1)}},
        ),
        ({"limits": {"memory": "7n"}}, {"limits": {"memory": "7n"}}),
    ],
)
def test_host_memory_of_the_prefix_cache_comes_on_top(resources: Any, raised: Manifest) -> None:
    parts = {"resources": resources} if resources else {}
    assert container({**parts, "prefixCache": {"hostMemory": "1Gi"}})["resources"] == raised


def test_without_host_memory_the_resources_stay_as_they_are_written() -> None:
    written = {"limits": {"memory": "1024Mi"}}
    assert container({"resources": written, "prefixCache": {"size": 5}})["resources"] == written
    assert "resources" not in container({"prefixCache": {"size": 5}})


@pytest.mark.parametrize(
    "spec",
    [
        {"prefixCache": {"size": "1Gi"}},
        {"speculativeDecoding": {"method": "ngram"}},
        {"auth": {"apiKeys": {"secretRef": {"name": "keys"}}}},
        {"tls": {"secretRef": {"name": "certificate"}}},
    ],
)
def test_what_the_pods_are_started_with_is_part_of_their_hash(spec: Manifest) -> None:
    assert template.template_hash(owner(spec), None) != template.template_hash(owner(), None)


def test_defaults_that_a_newer_version_brings_change_no_hash() -> None:
    written = {"prefixCache": {"enabled": True, "scope": "Key"}}
    assert template.template_hash(owner(written), None) == template.template_hash(owner(), None)


def test_the_grace_period_covers_settling_and_draining() -> None:
    spec = {"drain": {"settleSeconds": 7, "timeoutSeconds": 60}}
    assert pod_spec(spec)["terminationGracePeriodSeconds"] == 77


def test_the_startup_probe_lasts_as_long_as_the_rollout_may() -> None:
    probe = container({"rollout": {"progressDeadlineSeconds": 600}})["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 600
    assert probe["httpGet"] == {"path": "/readyz", "port": "admin", "scheme": "HTTP"}


def test_downloads_are_kept_in_a_claim_where_one_is_named() -> None:
    model = {"uri": "hf://acme/llama", "cache": {"claim": "downloads"}}
    spec = pod_spec({"model": model})
    (cache,) = (each for each in spec["volumes"] if each["name"] == "cache")
    assert cache["persistentVolumeClaim"] == {"claimName": "downloads"}
    assert spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsUser"]
    own = pod_spec({"model": {"uri": "hf://acme/llama"}})
    assert {"name": "cache", "emptyDir": {}} in own["volumes"]
    assert "fsGroup" not in own["securityContext"]


def test_a_spread_constraint_counts_the_services_own_pods() -> None:
    constraint = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
    (spread,) = pod_spec({"template": {"topologySpreadConstraints": [constraint]}})[
        "topologySpreadConstraints"
    ]
    assert spread["labelSelector"] == {"matchLabels": names.selector("chat")}


def test_labels_of_the_template_cannot_replace_ours() -> None:
    metadata = children({"template": {"labels": {"team": "a"}}})["Deployment"]["spec"]["template"][
        "metadata"
    ]
    assert metadata["labels"] == {"team": "a", **names.labels("chat")}


def test_a_disruption_budget_exists_for_two_or_more_pods() -> None:
    assert "PodDisruptionBudget" not in children({"replicas": 1})
    assert "PodDisruptionBudget" not in children({"replicas": 3, "suspend": True})
    assert children({"replicas": 3})["PodDisruptionBudget"]["spec"]["minAvailable"] == 2
    spec = {"replicas": 3, "disruption": {"minAvailable": 0}}
    assert children(spec)["PodDisruptionBudget"]["spec"]["minAvailable"] == 0


def test_the_admin_port_is_not_behind_the_service() -> None:
    ports = [port["port"] for port in children()["Service"]["spec"]["ports"]]
    assert ports == [names.HTTP_PORT]


OTLP = "OTEL_EXPORTER_OTLP_ENDPOINT"


def egress_ports(spec: Manifest) -> list[int]:
    rules = children(spec)["NetworkPolicy"]["spec"]["egress"]
    return [port["port"] for rule in rules for port in rule["ports"]]


@pytest.mark.parametrize("uri", ["builtin://helmsman-8m", "file:///models/a", "pvc://claim/a"])
def test_a_model_that_is_not_fetched_needs_no_way_out(uri: str) -> None:
    assert egress_ports({"model": {"uri": uri}}) == []


@pytest.mark.parametrize(
    ("endpoint", "ports"),
    [
        ("https://hub.example", [53, 53, 443]),
        ("http://hub.example:8080/x", [53, 53, 443, 8080]),
        ("http://hub.example", [53, 53, 80, 443]),
        ("http://[broken", [53, 53, 443]),
    ],
)
def test_a_fetched_model_may_reach_names_and_its_source(endpoint: str, ports: list[int]) -> None:
    variables = [{"name": "HF_ENDPOINT", "value": endpoint}]
    spec = {"model": {"uri": "hf://org/model"}, "template": {"env": variables}}
    assert egress_ports(spec) == ports


@pytest.mark.parametrize(
    ("uri", "variable", "ports"),
    [
        ("s3://models/llama", None, [53, 53, 443]),
        ("s3://models/llama", ("AWS_ENDPOINT_URL", "http://minio:9000"), [53, 53, 443, 9000]),
        ("oci://ghcr.io/acme/llama:1", None, [53, 53, 443]),
        ("oci://registry:5000/acme/llama", None, [53, 53, 443, 5000]),
        ("s3://models/llama", (OTLP, "http://collector:4318"), [53, 53, 443, 4318]),
        ("builtin://helmsman-8m", (OTLP, "http://collector:4318"), [53, 53, 4318]),
    ],
)
def test_pods_are_let_out_to_the_ports_of_buckets_registries_and_collectors(
    uri: str, variable: tuple[str, str] | None, ports: list[int]
) -> None:
    env = [{"name": variable[0], "value": variable[1]}] if variable else []
    assert egress_ports({"model": {"uri": uri}, "template": {"env": env}}) == ports


def test_a_draft_that_is_fetched_needs_a_way_out_too() -> None:
    drafts = [{"uri": "oci://registry:5000/acme/draft"}]
    assert egress_ports({"speculativeDecoding": {"draftModels": drafts}}) == [53, 53, 443, 5000]


def test_ingress_is_limited_to_the_given_peers_and_the_admin_port_to_the_cluster() -> None:
    peers = [{"podSelector": {"matchLabels": {"app": "web"}}}]
    api, admin = children({"networkPolicy": {"ingressFrom": peers}})["NetworkPolicy"]["spec"][
        "ingress"
    ]
    assert api["from"] == peers
    assert admin["from"] == [{"namespaceSelector": {}}]
    assert "from" not in children()["NetworkPolicy"]["spec"]["ingress"][0]


def test_no_network_policy_when_it_is_switched_off() -> None:
    assert "NetworkPolicy" not in children({"networkPolicy": {"enabled": False}})


def test_a_newer_operator_keeps_the_template_that_serves() -> None:
    before = children()["Deployment"]
    after = rendered(owner(), before, "registry.example/aweigh-runtime:2")["Deployment"]
    assert after["spec"]["template"] == before["spec"]["template"]


def recorded(change: Callable[[Manifest], None], signed: bool) -> Manifest:
    """A Deployment whose record was changed, with a fingerprint that fits or without."""
    before = children()["Deployment"]
    annotations = before["metadata"]["annotations"]
    kept = json.loads(annotations[names.TEMPLATE])
    change(kept["template"])
    annotations[names.TEMPLATE] = record.write(kept["template"]) if signed else json.dumps(kept)
    return before


def change_pods(**fields: Any) -> Callable[[Manifest], None]:
    return lambda bare: bare["spec"].update(fields)


def change_container(**fields: Any) -> Callable[[Manifest], None]:
    return lambda bare: bare["spec"]["containers"][0].update(fields)


def test_a_template_that_only_an_older_version_rendered_is_kept_too() -> None:
    older = change_container(args=["--from-an-older-version"], image="older")
    after = children(current=recorded(older, signed=True))["Deployment"]["spec"]["template"]
    (runtime,) = after["spec"]["containers"]
    assert (runtime["args"], runtime["image"]) == (["--from-an-older-version"], "older")


@pytest.mark.parametrize("change", [change_container(image="evil"), change_container(args=["x"])])
def test_a_record_that_was_edited_by_hand_is_not_believed(
    change: Callable[[Manifest], None],
) -> None:
    assert children(current=recorded(change, signed=False)) == children()


@pytest.mark.parametrize(
    "change",
    [
        change_pods(securityContext={"runAsUser": 0}),
        change_pods(serviceAccountName="admin"),
        change_pods(automountServiceAccountToken=True),
        change_pods(hostNetwork=True),
        change_pods(initContainers=[{"name": "x", "image": "evil"}]),
        change_pods(containers=[{"name": "x", "image": "evil"}]),
        change_pods(volumes=[{"name": "tmp", "hostPath": {"path": "/"}}]),
        change_pods(volumes=[{"name": "tmp", "emptyDir": {}, "secret": {"secretName": "x"}}]),
        change_pods(volumes=None),
        change_container(securityContext={"privileged": True}),
        change_container(ports=[{"containerPort": 8000, "hostPort": 80}]),
        change_container(command=["sh"]),
        change_container(env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "x"}}}]),
        change_container(env=None),
        lambda bare: bare.update(spec=[]),
        lambda bare: bare["metadata"].update(labels={}),
    ],
)
def test_a_record_that_gives_the_pods_further_rights_is_not_believed_though_signed(
    change: Callable[[Manifest], None],
) -> None:
    assert children(current=recorded(change, signed=True)) == children()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"template":{}}'])
def test_a_record_that_is_none_is_rendered_anew(text: str) -> None:
    before = children()["Deployment"]
    before["metadata"]["annotations"][names.TEMPLATE] = text
    assert children(current=before) == children()


def test_what_users_put_in_comes_back_with_a_kept_template() -> None:
    shape = {
        "env": [{"name": "HOME", "value": "/x"}, {"name": "A", "value": "1"}],
        "labels": {"team": "a"},
        "annotations": {"note": "b"},
        "tolerations": [{"operator": "Exists"}],
    }
    before = children({"template": shape})["Deployment"]
    after = rendered(owner({"template": shape}), before, "new")["Deployment"]
    assert after == before


def test_a_spec_at_its_bounds_leaves_the_annotations_within_the_limit_of_kubernetes() -> None:
    noise = random.Random(1)
    (bound,) = EnvVar.model_fields["value"].metadata
    env = [
        {"name": f"V{n}", "value": "".join(noise.choices(string.ascii_letters, k=bound.max_length))}
        for n in range(64)
    ]
    notes = {f"note-{number}": "x" * 1024 for number in range(32)}
    spec = {"template": {"env": env, "annotations": notes}}
    deployment = children(spec)["Deployment"]
    annotations = deployment["metadata"]["annotations"]
    assert sum(len(key) + len(value.encode()) for key, value in annotations.items()) < 16_384
    assert rendered(owner(spec), deployment, "new")["Deployment"] == deployment


def test_a_changed_spec_takes_the_current_image() -> None:
    before = children()["Deployment"]
    changed = owner({"model": {"uri": "builtin://helmsman-8m", "maxModelLen": 128}})
    after = rendered(changed, before, "new")["Deployment"]
    assert template.image_of(after) == "new"


def test_the_upgrade_annotation_takes_the_current_image() -> None:
    before = children()["Deployment"]
    upgraded = owner(annotations={names.UPGRADE: "2026-11-23"})
    assert template.image_of(rendered(upgraded, before, "new")["Deployment"]) == "new"


def test_an_upgrade_that_brings_no_other_pods_is_answered_and_changes_none() -> None:
    before = children()["Deployment"]
    after = rendered(owner(annotations={names.UPGRADE: "1"}), before)["Deployment"]
    assert after["spec"] == before["spec"]
    assert noted(after) == ("none", "1")
    assert rendered(owner(annotations={names.UPGRADE: "1"}), after, "new")["Deployment"] == after
    again = rendered(owner(annotations={names.UPGRADE: "2"}), after, "new")["Deployment"]
    assert (noted(again), template.image_of(again)) == (("2", "2"), "new")


def test_an_upgrade_moves_pods_that_another_version_has_made() -> None:
    before = children()["Deployment"]
    annotations = before["metadata"]["annotations"]
    bare = template.bare(owner(), fakes.IMAGE, annotations[names.TEMPLATE_HASH])
    bare["spec"]["volumes"] = bare["spec"]["volumes"][:1]
    annotations[names.TEMPLATE] = record.write(bare)
    after = rendered(owner(annotations={names.UPGRADE: "1"}), before)["Deployment"]
    assert noted(after) == ("1", "1")
    assert len(after["spec"]["template"]["spec"]["volumes"]) > 1


def test_a_forced_upgrade_moves_pods_that_are_current() -> None:
    before = children()["Deployment"]
    asked = f"1{names.UPGRADE_FORCED}"
    after = rendered(owner(annotations={names.UPGRADE: asked}), before)["Deployment"]
    assert noted(after) == (asked, asked)
    assert after["spec"]["template"] != before["spec"]["template"]


def test_an_upgrade_that_is_taken_back_moves_nothing() -> None:
    upgraded = rendered(owner(annotations={names.UPGRADE: "1"}), children()["Deployment"], "new")
    after = rendered(owner(), upgraded["Deployment"], "newer")["Deployment"]
    assert after["spec"] == upgraded["Deployment"]["spec"]


def test_pods_of_an_operator_that_noted_no_upgrade_are_kept() -> None:
    upgraded = owner(annotations={names.UPGRADE: "1"})
    before = rendered(upgraded, None)["Deployment"]
    for note in (names.UPGRADE, names.UPGRADE_ANSWERED):
        del before["metadata"]["annotations"][note]
    after = rendered(upgraded, before, "new")["Deployment"]
    assert after["spec"] == before["spec"]
    assert noted(after) == ("1", "1")


@given(
    st.lists(
        st.tuples(st.just("image"), st.sampled_from("abc"))
        | st.tuples(st.just("upgrade"), st.sampled_from(["", names.UPGRADE_FORCED]))
        | st.tuples(st.just("spec"), st.integers(1, 3)),
        max_size=8,
    )
)
def test_pods_change_with_their_spec_and_for_upgrades_alone(deeds: list[tuple[str, Any]]) -> None:
    """And after an upgrade that was answered they are as a new operator would make them."""
    image, limit, upgrade = "a", 1, ""
    there: Manifest | None = None
    for number, (deed, value) in enumerate([*deeds, ("upgrade", "")]):
        image = value if deed == "image" else image
        limit = value if deed == "spec" else limit
        upgrade = f"{number}{value}" if deed == "upgrade" else upgrade
        spec = {"model": {"uri": "builtin://a", "maxModelLen": limit}}
        service = owner(spec, annotations={names.UPGRADE: upgrade})
        before, current = there, pods_of(rendered(owner(spec), None, image)["Deployment"])
        there = rendered(service, before, image)["Deployment"]
        assert rendered(service, there, image)["Deployment"] == there
        assert noted(there)[1] == (upgrade or "none")
        if before is None or deed == "upgrade":
            assert pods_of(there) == current
        same = before is not None and pods_of(before) == current and value != names.UPGRADE_FORCED
        if same or deed == "image":
            assert before is None or there["spec"] == before["spec"]


def pods_of(deployment: Manifest) -> Manifest:
    """What the pods run, whatever they are called."""
    found: Manifest = deployment["spec"]["template"]["spec"]
    return found


def noted(deployment: Manifest) -> tuple[str, str]:
    """The upgrade that the pods were made with, and the one that was answered last."""
    annotations = deployment["metadata"]["annotations"]
    return annotations[names.UPGRADE], annotations[names.UPGRADE_ANSWERED]


def test_other_annotations_and_more_replicas_restart_nothing() -> None:
    before = children()["Deployment"]
    same = owner({"replicas": 5}, annotations={"team": "a"})
    after = rendered(same, before, "new")["Deployment"]
    assert after["spec"]["template"] == before["spec"]["template"]
