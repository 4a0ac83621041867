"""From a spec to the runtime's command line. That the runtime understands it: tests/cli."""

from typing import Any

import pytest
from pydantic import ValidationError

from aweigh_api import flags
from aweigh_api.spec import InferenceService
from tests.api.refusals import HF, manifest, spec


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


def test_a_pod_listens_where_the_kubelet_and_other_pods_reach_it() -> None:
    arguments = flags.pod_arguments(service())
    assert {"--host=0.0.0.0", "--port=8000", "--admin-port=9090"} <= set(arguments)


def test_only_a_pod_with_a_secret_is_told_of_one() -> None:
    with_secret = service(model={**HF, "secretRef": {"name": "token"}})
    assert "--secret-dir=/etc/aweigh/model-secret" in flags.pod_arguments(with_secret)
    assert not any("secret" in argument for argument in flags.pod_arguments(service()))


def test_the_environment_cannot_set_what_a_pod_is_given_as_a_flag() -> None:
    model = {**HF, "name": "a", "revision": "b", "maxModelLen": 1, "dtype": "fp16"}
    everything = service(model={**model, "secretRef": {"name": "token"}})
    given = [each.split("=")[0] for each in flags.pod_arguments(everything) if "=" in each]
    for flag in given:
        env = [{"name": flags.environment_variable(flag), "value": "1"}]
        with pytest.raises(ValidationError, match="a field of its own"):
            service(template={"env": env})


def test_a_flag_has_one_variable() -> None:
    assert flags.environment_variable("--admin-port") == "AWEIGH_ADMIN_PORT"
