"""`aweigh local`: what it takes from a file, and what it says about one that it cannot serve."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from aweigh_cli.failures import CommandFailure
from aweigh_cli.local import without_effect
from aweigh_cli.manifests import read_service
from tests.api.refusals import HF, REFUSALS, Refusal, manifest, spec
from tests.cli.command import aweigh


def document(*objects: dict[str, Any]) -> str:
    return yaml.safe_dump_all(objects)


def refusal(text: str, name: str | None = None) -> str:
    with pytest.raises(CommandFailure) as caught:
        read_service(text, "f.yaml", name)
    assert caught.value.exit_code == 78
    return str(caught.value)


def mistake(**parts: Any) -> str:
    return refusal(document(manifest("chat", spec(**parts))))


CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other"}}


def test_other_objects_of_the_file_are_left_alone() -> None:
    text = document(CONFIG_MAP, manifest("chat", spec()))
    assert read_service(text, "f.yaml", None).metadata.name == "chat"


def test_a_list_is_looked_into() -> None:
    items = [CONFIG_MAP, manifest("chat", spec())]
    text = document({"apiVersion": "v1", "kind": "List", "items": items})
    assert read_service(text, "f.yaml", None).metadata.name == "chat"


def test_one_of_several_is_picked_by_name() -> None:
    text = document(manifest("chat", spec()), manifest("code", spec()))
    assert read_service(text, "f.yaml", "code").metadata.name == "code"
    assert "2 InferenceServices (chat, code); pick one with --name" in refusal(text)
    assert "expected an InferenceService named cook, found chat, code" in refusal(text, "cook")


def test_a_file_without_one_says_so() -> None:
    assert "expected an InferenceService, found none" in refusal(document(CONFIG_MAP))


def test_the_kind_of_the_same_name_of_another_project_is_not_taken() -> None:
    other = manifest("chat", spec()) | {"apiVersion": "serving.kserve.io/v1beta1"}
    assert "is serving.kserve.io/v1beta1; expected serving.aweigh.dev/v1alpha1" in refusal(
        document(other)
    )


def test_what_is_not_yaml_is_named_with_its_line() -> None:
    assert "f.yaml is not YAML: " in refusal("kind: [")
    assert "line 2" in refusal("kind: a\n\tb: c")


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.title)
def test_it_refuses_what_the_api_server_refuses_with_the_same_sentence(case: Refusal) -> None:
    assert case.sentence in refusal(document(manifest(case.name, case.spec)))


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"drain": {"timeoutSeconds": -1}}, "spec.drain.timeoutSeconds is -1; expected 0 or more"),
        (
            {"drain": {"settleSeconds": 301}},
            "spec.drain.settleSeconds is 301; expected 300 or less",
        ),
        ({"replicas": "2"}, "spec.replicas is '2'; expected a whole number"),
        ({"suspend": "no"}, "spec.suspend is 'no'; expected true or false"),
        ({"model": {}}, "spec.model.uri is missing; expected a value"),
        ({"modle": 1}, "spec.modle is not a field of an InferenceService"),
        ({"resources": {"limits": {"cpu": 0.5}}}, "spec.resources.limits.cpu is 0.5; expected a q"),
        (
            {"template": {"env": [{"name": "A"}, {"name": "1"}]}},
            "spec.template.env[1].name is '1'; expected text that matches",
        ),
        (
            {"model": {"uri": "builtin://x", "dtype": "int3"}},
            "spec.model.dtype is 'int3'; expected 'auto', 'bf16', 'fp16' or 'fp32'",
        ),
    ],
)
def test_a_mistake_is_a_sentence_with_the_fields_path(parts: dict[str, Any], sentence: str) -> None:
    assert f"f.yaml: {sentence}" in mistake(**parts)


def test_a_quantity_that_is_none_is_named_with_what_is_expected() -> None:
    assert "f.yaml: spec.prefixCache.size is '10GB'; expected an amount of memory, such as" in (
        mistake(prefixCache={"size": "10GB"})
    )
    assert "f.yaml: spec.resources.limits.memory is '10GB'; expected a quantity, such as" in (
        mistake(resources={"limits": {"memory": "10GB"}})
    )


def test_every_mistake_is_named_at_once() -> None:
    lines = mistake(replicas=-1, drain={"timeoutSeconds": -1}).splitlines()
    assert len(lines) == 2


def test_fields_without_meaning_on_one_machine_are_named() -> None:
    parts = spec(
        replicas=3,
        router={"replicas": 1},
        suspend=True,
        networkPolicy={"enabled": False},
        template={"labels": {"team": "a"}, "env": [{"name": "A", "value": "b"}]},
    )
    warnings = without_effect(read_service(document(manifest("chat", parts)), "f.yaml", None))
    assert [warning.split(" has ")[0] for warning in warnings] == [
        "spec.replicas",
        "spec.router",
        "spec.suspend",
        "spec.networkPolicy",
        "spec.template",
    ]
    scaled = spec(scaling={"maxReplicas": 2})
    (warning,) = without_effect(read_service(document(manifest("chat", scaled)), "f.yaml", None))
    assert warning.startswith("spec.scaling has no effect without a cluster")


def test_several_servers_are_said_to_be_several() -> None:
    scaled = spec(scaling={"maxReplicas": 2})
    service = read_service(document(manifest("chat", scaled)), "f.yaml", None)
    (warning,) = without_effect(service, pods=2)
    assert warning.endswith("2 servers run here and take what they need")


def test_a_service_that_means_the_same_everywhere_warns_of_nothing() -> None:
    parts = spec(replicas=1, template={"env": [{"name": "A", "value": "b"}]})
    service = read_service(document(manifest("chat", parts)), "f.yaml", None)
    assert without_effect(service) == []


def test_a_volume_of_a_cluster_is_refused_with_what_to_give_instead() -> None:
    text = document(manifest("chat", spec(model={"uri": "pvc://models/llama"})))
    done = aweigh("local", "-f", "-", stdin=text)
    assert done.returncode == 78
    assert "give file:///PATH of a copy" in done.stderr


def test_a_draft_on_a_volume_of_a_cluster_is_refused_too() -> None:
    drafts = [{"uri": "builtin://helmsman-1m-draft"}, {"uri": "pvc://models/draft"}]
    parts = spec(speculativeDecoding={"draftModels": drafts})
    done = aweigh("local", "-f", "-", stdin=document(manifest("chat", parts)))
    assert done.returncode == 78
    assert "spec.speculativeDecoding.draftModels[1].uri is pvc://models/draft" in done.stderr


@pytest.mark.parametrize(
    ("parts", "sentence", "remedy"),
    [
        (
            {
                "model": {"uri": "builtin://helmsman-8m", "secretRef": {"name": "token"}},
                "speculativeDecoding": {"draftModels": [HF]},
            },
            "spec.model.secretRef is token, a Secret of a cluster",
            "set HF_TOKEN",
        ),
        (
            {"model": {**HF, "secretRef": {"name": "token"}}},
            "spec.model.secretRef is token, a Secret of a cluster",
            "set HF_TOKEN",
        ),
        (
            {"model": {"uri": "s3://models/llama", "secretRef": {"name": "keys"}}},
            "spec.model.secretRef is keys, a Secret of a cluster",
            "set AWEIGH_SECRET_DIR to a directory with its entries as files",
        ),
        (
            {"auth": {"apiKeys": {"secretRef": {"name": "people"}}}},
            "spec.auth.apiKeys.secretRef is people, a Secret of a cluster",
            "set AWEIGH_API_KEYS_DIR to a directory with its entries as files",
        ),
        (
            {"tls": {"secretRef": {"name": "certificate"}}},
            "spec.tls.secretRef is certificate, a Secret of a cluster",
            "set AWEIGH_TLS_DIR to a directory with its entries as files",
        ),
    ],
)
def test_a_secret_of_a_cluster_is_replaced_by_a_variable(
    parts: dict[str, Any], sentence: str, remedy: str
) -> None:
    done = aweigh("local", "-f", "-", stdin=document(manifest("chat", spec(**parts))))
    assert done.returncode == 78
    assert sentence in done.stderr
    assert remedy in done.stderr


def test_several_mistakes_reach_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(document(manifest("chat", spec(replicas=-1, modle=1))))
    done = aweigh("local", "-f", str(file))
    assert done.returncode == 78
    assert done.stderr.count(str(file)) == 2
