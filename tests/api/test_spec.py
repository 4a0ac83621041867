"""What an InferenceService may say, as Python sees it. The API server's view: tests/e2e."""

from typing import Any

import pytest
from pydantic import ValidationError

from aweigh_api.quantity import to_bytes
from aweigh_api.spec import InferenceService, Spec
from tests.api.refusals import (
    AMOUNTS,
    DRAFT,
    HF,
    OUT_OF_RANGE,
    REFUSALS,
    Refusal,
    manifest,
    rules,
    spec,
)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.title)
def test_a_contradiction_is_refused_with_a_sentence(refusal: Refusal) -> None:
    with pytest.raises(ValidationError) as refused:
        InferenceService.model_validate(manifest(refusal.name, refusal.spec))
    assert refusal.sentence in str(refused.value)


@pytest.mark.parametrize(
    ("spec", "path"), [case[1:] for case in OUT_OF_RANGE], ids=[case[0] for case in OUT_OF_RANGE]
)
def test_a_value_out_of_range_is_refused_with_its_path(spec: dict[str, object], path: str) -> None:
    with pytest.raises(ValidationError) as refused:
        InferenceService.model_validate(manifest("chat", spec))
    paths = [".".join(map(str, error["loc"])) for error in refused.value.errors()]
    assert any(found.startswith(path) for found in paths)


@pytest.mark.parametrize(("amount", "amounts_to"), AMOUNTS, ids=[str(each[0]) for each in AMOUNTS])
def test_memory_is_read_in_each_notation(amount: int | str, amounts_to: int) -> None:
    parts = spec(prefixCache={"size": amount}, resources={"limits": {"memory": amount}})
    found = InferenceService.model_validate(manifest("chat", parts)).spec
    assert to_bytes(found.prefix_cache.size or 0) == amounts_to


def test_an_exponent_without_end_takes_no_time() -> None:
    assert to_bytes("1e999999999") == to_bytes("1e99")
    assert to_bytes("1e-999999999") == 1


SCALED = {"minReplicas": 2, "maxReplicas": 8}


def test_every_rule_has_a_refusal_that_shows_it() -> None:
    shown = {
        rule.message
        for rule in rules()
        for refusal in REFUSALS
        if rule.message.startswith(refusal.sentence) or refusal.sentence in rule.message
    }
    assert shown == {rule.message for rule in rules()}


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="replica"):
        InferenceService.model_validate(manifest("chat", spec(replica=2)))


@pytest.mark.parametrize(
    "uri",
    [
        "s3://models/llama/8b",
        "s3://acme.models-2/llama",
        "oci://ghcr.io/acme/llama",
        "oci://ghcr.io/acme/llama:v1.0",
        "oci://localhost:5000/llama:latest",
        f"oci://ghcr.io/acme/llama@sha256:{'0a' * 32}",
    ],
)
def test_buckets_and_registries_may_have_a_secret(uri: str) -> None:
    model = {"uri": uri, "secretRef": {"name": "keys"}}
    assert (
        InferenceService.model_validate(manifest("chat", spec(model=model))).spec.model.uri == uri
    )


def test_the_models_secret_may_be_for_its_draft_alone() -> None:
    parts = spec(
        model={"uri": "pvc://models/llama", "secretRef": {"name": "token"}},
        speculativeDecoding={"draftModels": [HF]},
    )
    found = InferenceService.model_validate(manifest("chat", parts)).spec
    assert found.uris == ["pvc://models/llama", HF["uri"]]


@pytest.mark.parametrize(
    ("part", "speculates"),
    [
        ({"speculativeDecoding": {"draftModels": [DRAFT]}}, True),
        ({"speculativeDecoding": {"method": "ngram"}}, True),
        ({"speculativeDecoding": {"method": "none"}}, False),
        ({}, False),
    ],
)
def test_answers_are_guessed_ahead_where_somebody_guesses(
    part: dict[str, object], speculates: bool
) -> None:
    assert InferenceService.model_validate(manifest("chat", spec(**part))).spec.speculates is (
        speculates
    )


@pytest.mark.parametrize("amount", ["40Gi", "0.5", "500m", "1e9", ".5Gi", "1Pi", 1, 2**50])
def test_an_amount_of_memory_is_written_as_in_kubernetes(amount: int | str) -> None:
    parts = spec(prefixCache={"size": amount, "hostMemory": amount})
    cache = InferenceService.model_validate(manifest("chat", parts)).spec.prefix_cache
    assert (cache.size, cache.host_memory) == (amount, amount)


@pytest.mark.parametrize(
    ("parts", "pods"),
    [
        pytest.param({}, 1, id="one pod when nothing is said"),
        pytest.param({"replicas": 3}, 3, id="as many as replicas says"),
        pytest.param({"replicas": 0}, 0, id="none with zero replicas"),
        pytest.param({"replicas": 3, "suspend": True}, 0, id="none while suspended"),
        pytest.param({"scaling": SCALED}, 4, id="as the load asks for"),
        pytest.param({"scaling": {**SCALED, "maxReplicas": 3}}, 3, id="no more than the bounds"),
        pytest.param({"scaling": SCALED, "suspend": True}, 0, id="none while suspended, scaled"),
        pytest.param(
            {"scaling": {**SCALED, "mode": "DryRun"}, "replicas": 3},
            3,
            id="as many as replicas says while scaling is only tried",
        ),
    ],
)
def test_wanted_replicas(parts: dict[str, object], pods: int) -> None:
    service = InferenceService.model_validate(manifest("chat", spec(**parts)))
    assert service.spec.wanted_replicas(4) == pods


def test_before_the_load_is_known_the_fewest_pods_run() -> None:
    service = InferenceService.model_validate(manifest("chat", spec(scaling=SCALED)))
    assert service.spec.wanted_replicas(None) == 2


def test_the_model_is_named_after_the_service_unless_it_has_a_name() -> None:
    named = spec(model={"uri": "builtin://helmsman-8m", "name": "acme/helmsman"})
    assert InferenceService.model_validate(manifest("chat", spec())).model_name == "chat"
    assert InferenceService.model_validate(manifest("chat", named)).model_name == "acme/helmsman"


@pytest.mark.parametrize(
    ("parts", "routers"),
    [
        ({}, 0),
        ({"replicas": 1}, 0),
        ({"replicas": 2}, 2),
        ({"replicas": 2, "router": {"replicas": 0}}, 0),
        ({"router": {}}, 2),
        ({"router": {"replicas": 3}}, 3),
        ({"scaling": {"maxReplicas": 1}}, 0),
        ({"scaling": {"maxReplicas": 4}}, 2),
        ({"scaling": {"maxReplicas": 4, "mode": "DryRun"}}, 0),
        ({"scaling": {"minReplicas": 0, "maxReplicas": 1}}, 2),
    ],
)
def test_the_spec_alone_says_whether_there_is_a_router(parts: dict[str, Any], routers: int) -> None:
    found = Spec.model_validate(spec(**parts))
    assert found.routers == routers
    assert found.routed is (routers > 0)


def test_a_service_that_may_have_no_pod_begins_with_one_and_stays_at_none() -> None:
    found = Spec.model_validate(spec(scaling={"minReplicas": 0, "maxReplicas": 4}))
    assert [found.wanted_replicas(scaled) for scaled in (None, 0, 1, 9)] == [1, 0, 1, 4]
