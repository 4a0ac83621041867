"""From a spec to the runtime's command line. That the runtime understands it: tests/cli."""

from typing import Any

import pytest
from pydantic import ValidationError

from aweigh_api import flags, names
from aweigh_api.spec import InferenceService
from tests.api.refusals import DRAFT, HF, manifest, spec


def service(**parts: Any) -> InferenceService:
    return InferenceService.model_validate(manifest("chat", spec(**parts)))


def test_what_is_not_said_is_left_to_the_runtime() -> None:
    assert flags.serve_arguments(service()) == [
        "serve",
        "builtin://helmsman-8m",
        "--model-name=chat",
        "--drain-settle-seconds=5",
        "--drain-timeout-seconds=120",
    ]


def test_every_field_of_the_model_reaches_the_command_line() -> None:
    model = {**HF, "name": "llama", "revision": "abc", "maxModelLen": 4096, "dtype": "fp16"}
    arguments = flags.serve_arguments(service(model=model))
    assert arguments[1] == HF["uri"]
    assert {
        "--model-name=llama",
        "--revision=abc",
        "--max-model-len=4096",
        "--dtype=fp16",
    } <= set(arguments)


def test_every_field_of_the_prefix_cache_reaches_the_command_line() -> None:
    cache = {"size": "40Gi", "hostMemory": 1024, "blockTokens": 64, "scope": "Service"}
    assert {
        "--prefix-cache-size=40Gi",
        "--prefix-cache-host-memory=1024",
        "--prefix-cache-block-tokens=64",
        "--prefix-cache-scope=Service",
    } <= set(flags.serve_arguments(service(prefixCache=cache)))
    off = flags.serve_arguments(service(prefixCache={"enabled": False}))
    assert [each for each in off if "prefix" in each] == ["--no-prefix-cache-enabled"]


def test_every_field_of_quantization_reaches_the_command_line() -> None:
    quantization = {"scheme": "gptq", "kvCacheDtype": "fp8"}
    given = flags.serve_arguments(service(quantization=quantization))
    assert {"--quantization=gptq", "--kv-cache-dtype=fp8"} <= set(given)
    usual = flags.serve_arguments(service(quantization={"scheme": "auto"}))
    assert not [each for each in usual if "quantization" in each or "kv-cache" in each]


def test_every_field_of_speculative_decoding_reaches_the_command_line() -> None:
    drafts = [DRAFT, {**HF, "revision": "v2"}]
    part = {"draftModels": drafts, "maxDraftTokens": 5, "minAcceptancePercent": 40}
    given = flags.serve_arguments(service(speculativeDecoding=part))
    assert [each for each in given if "draft" in each or "acceptance" in each] == [
        "--speculation=draft",
        "--draft-model=builtin://helmsman-1m-draft",
        f"--draft-model={HF['uri']}@v2",
        "--max-draft-tokens=5",
        "--min-acceptance-percent=40",
    ]
    by_words = flags.serve_arguments(service(speculativeDecoding={"method": "ngram"}))
    assert {"--speculation=ngram", "--max-draft-tokens=8"} <= set(by_words)
    assert flags.serve_arguments(service(speculativeDecoding={"method": "none"})) == (
        flags.serve_arguments(service())
    )


@pytest.mark.parametrize(
    ("uri", "revision"),
    [
        (HF["uri"], None),
        (HF["uri"], "refs/pr/1"),
        (f"oci://ghcr.io/acme/draft@sha256:{'0a' * 32}", None),
        ("file:///models/a@b", None),
    ],
)
def test_a_draft_model_is_one_value(uri: str, revision: str | None) -> None:
    assert flags.draft_of(flags.draft_argument(uri, revision)) == (uri, revision)


def test_a_pod_listens_where_the_kubelet_and_other_pods_reach_it() -> None:
    arguments = flags.pod_arguments(service())
    assert {"--host=0.0.0.0", "--port=8000", "--admin-port=9090"} <= set(arguments)


SECRETS: dict[str, Any] = {
    "model": {**HF, "secretRef": {"name": "token"}},
    "auth": {"apiKeys": {"secretRef": {"name": "keys"}}},
    "tls": {"secretRef": {"name": "certificate"}},
}


@pytest.mark.parametrize(
    ("part", "argument"),
    [
        ("model", "--secret-dir=/etc/aweigh/model-secret"),
        ("auth", "--api-keys-dir=/etc/aweigh/api-keys"),
        ("tls", "--tls-dir=/etc/aweigh/tls"),
    ],
)
def test_only_a_pod_with_a_secret_is_told_where_it_is(part: str, argument: str) -> None:
    given = flags.pod_arguments(service(**{part: SECRETS[part]}))
    without = flags.pod_arguments(service(model=HF) if part == "model" else service())
    assert set(given) - set(without) == {argument}


def test_the_environment_cannot_set_what_a_pod_is_given_as_a_flag() -> None:
    model = {**HF, "name": "a", "revision": "b", "maxModelLen": 1, "dtype": "fp16"}
    cache = {"size": 1, "hostMemory": 1, "blockTokens": 16, "scope": "Service"}
    quantization = {"scheme": "gptq", "kvCacheDtype": "fp8"}
    speculation = {"draftModels": [DRAFT], "minAcceptancePercent": 1}
    parts = {
        "model": {**SECRETS["model"], **model},
        "prefixCache": cache,
        "speculativeDecoding": speculation,
    }
    everything = service(**SECRETS | parts | {"quantization": quantization})
    given = [each.split("=")[0] for each in flags.pod_arguments(everything) if "=" in each]
    given.append("--prefix-cache-enabled")
    for flag in given:
        env = [{"name": names.environment_variable(flag), "value": "1"}]
        with pytest.raises(ValidationError, match="a field of its own"):
            service(template={"env": env})


def test_a_flag_has_one_variable() -> None:
    assert names.environment_variable("--admin-port") == "AWEIGH_ADMIN_PORT"


def test_a_router_is_told_where_pods_are_and_who_may_ask() -> None:
    assert flags.router_arguments(service()) == [
        "--service=chat",
        "--namespace=default",
        "--pods-service=chat-pods",
        "--model-name=chat",
        "--host=0.0.0.0",
        "--port=8000",
        "--admin-port=9090",
        "--router-secret-dir=/etc/aweigh/router-secret",
        "--drain-settle-seconds=5",
        "--drain-timeout-seconds=120",
    ]
    guarded = flags.router_arguments(service(auth=SECRETS["auth"], tls=SECRETS["tls"]))
    assert guarded[-2:] == ["--api-keys-dir=/etc/aweigh/api-keys", "--tls-dir=/etc/aweigh/tls"]
