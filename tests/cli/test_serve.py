"""`aweigh serve`: flags and Config are the same thing, and what operators send arrives."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import typer.main

from aweigh_api import flags, names
from aweigh_api.spec import InferenceService
from aweigh_api.termination import Termination
from aweigh_cli import launch
from aweigh_cli.commands import app
from aweigh_runtime.config import Config
from aweigh_runtime.failures import InvalidConfiguration
from tests.api.refusals import DRAFT, HF, manifest, spec
from tests.cli.command import aweigh, environment

FILLED_IN_LATER = {"uri", "model_name", "cache_dir"}  # by the user, from the URI, from XDG


def parameters() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    command = group.commands["serve"]
    return {parameter.name: parameter for parameter in command.params}


def parsed(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Config:
    """The Config that a command line leads to, stopped where the server would start."""
    configs: list[Config] = []

    def keep(configure: Any, termination_log: Path | None) -> int:
        configs.append(configure())
        return 0

    monkeypatch.setattr(launch, "launch", keep)
    typer.main.get_command(app).main(list(arguments), standalone_mode=False)
    return configs[0]


def test_every_field_of_config_is_a_flag_and_the_other_way_round() -> None:
    assert set(parameters()) == {field.name for field in dataclasses.fields(Config)}


@pytest.mark.parametrize("field", dataclasses.fields(Config), ids=lambda field: field.name)
def test_a_flag_has_the_fields_default(field: "dataclasses.Field[Any]") -> None:
    if field.name not in FILLED_IN_LATER:
        assert parameters()[field.name].default == field.default


@pytest.mark.parametrize("name", sorted(set(parameters()) - {"uri"}))
def test_a_flag_is_its_field_in_kebab_case_and_has_a_variable(name: str) -> None:
    flag = "--" + name.replace("_", "-")
    assert parameters()[name].opts == [flag]
    assert parameters()[name].envvar == names.environment_variable(flag)


def test_the_arguments_of_a_pod_give_the_config_that_the_spec_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = {**HF, "name": "llama", "revision": "v2", "maxModelLen": 4096, "dtype": "fp16"}
    parts = spec(
        model={**model, "secretRef": {"name": "token"}},
        drain={"settleSeconds": 7, "timeoutSeconds": 90},
        prefixCache={
            "size": "40Gi",
            "hostMemory": "2Gi",
            "blockTokens": 64,
            "scope": "Service",
        },
        speculativeDecoding={
            "draftModels": [DRAFT, {**HF, "revision": "v1"}],
            "maxDraftTokens": 5,
            "minAcceptancePercent": 40,
        },
        auth={"apiKeys": {"secretRef": {"name": "keys"}}},
        tls={"secretRef": {"name": "certificate"}},
    )
    service = InferenceService.model_validate(manifest("chat", parts))
    assert parsed(monkeypatch, *flags.pod_arguments(service)) == Config(
        uri=HF["uri"],
        model_name="llama",
        revision="v2",
        secret_dir=Path("/etc/aweigh/model-secret"),
        max_model_len=4096,
        dtype="fp16",
        host="0.0.0.0",
        cache_dir=Path("/var/cache/aweigh"),
        termination_log=Path("/dev/termination-log"),
        prefix_cache_size=40 * 2**30,
        prefix_cache_host_memory=2 * 2**30,
        prefix_cache_block_tokens=64,
        prefix_cache_scope="Service",
        speculation="draft",
        draft_model=(DRAFT["uri"], f"{HF['uri']}@v1"),
        max_draft_tokens=5,
        min_acceptance_percent=40,
        api_keys_dir=Path("/etc/aweigh/api-keys"),
        tls_dir=Path("/etc/aweigh/tls"),
        router_secret_dir=Path("/etc/aweigh/router-secret"),
        drain_settle_seconds=7,
        drain_timeout_seconds=90,
    )


def test_a_prefix_cache_that_is_off_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = spec(prefixCache={"enabled": False})
    service = InferenceService.model_validate(manifest("chat", parts))
    assert not parsed(monkeypatch, *flags.serve_arguments(service)).prefix_cache_enabled


def test_the_arguments_of_a_plain_pod_leave_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    service = InferenceService.model_validate(manifest("chat", spec()))
    config = parsed(monkeypatch, *flags.pod_arguments(service))
    assert (config.dtype, config.max_model_len, config.secret_dir) == ("auto", None, None)
    assert (config.drain_settle_seconds, config.drain_timeout_seconds) == (5, 120)


@pytest.mark.parametrize(
    ("given", "method"),
    [
        ([], "none"),
        (["--draft-model=builtin://a", "--draft-model=builtin://b"], "draft"),
        (["--speculation=draft", "--draft-model=builtin://a"], "draft"),
        (["--speculation=ngram", "--min-acceptance-percent=30"], "ngram"),
        (["--speculation=none"], "none"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_who_guesses_follows_from_the_flags(
    given: list[str], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parsed(monkeypatch, "serve", "builtin://x", *given)
    assert config.speculation_method == method
    assert len(config.draft_model) == sum("--draft-model" in each for each in given)


def test_draft_models_of_the_environment_stand_apart_by_spaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWEIGH_DRAFT_MODEL", "builtin://a hf://org/b@v1")
    config = parsed(monkeypatch, "serve", "builtin://x")
    assert config.draft_model == ("builtin://a", "hf://org/b@v1")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"speculation": "draft"}, "--speculation is draft, but no model guesses"),
        (
            {"speculation": "ngram", "draft_model": ("builtin://a",)},
            "has no effect with --speculation=ngram",
        ),
        ({"draft_model": ("builtin://a", "builtin://a")}, "expected at most 4, each once"),
        ({"draft_model": tuple(f"builtin://{each}" for each in "abcde")}, "each once"),
        ({"draft_model": ("",)}, "--draft-model is ''; expected a URI that begins with"),
        ({"speculation": "ngram", "max_draft_tokens": 17}, "--max-draft-tokens is 17"),
        ({"speculation": "ngram", "min_acceptance_percent": 0}, "--min-acceptance-percent is 0"),
        ({"min_acceptance_percent": 50}, "have no effect where nothing guesses"),
        ({"speculation": "none", "max_draft_tokens": 4}, "have no effect where nothing guesses"),
    ],
)
def test_flags_of_speculation_that_contradict_each_other_are_refused(
    given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidConfiguration, match=sentence):
        Config(uri="builtin://x", model_name="x", cache_dir=Path("/c"), **given)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("hf://meta-llama/Llama-3.2-1B", "Llama-3.2-1B"),
        ("builtin://helmsman-8m", "helmsman-8m"),
        ("file:///srv/models/qwen/", "qwen"),
    ],
)
def test_a_model_is_called_after_the_last_part_of_its_uri(
    uri: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parsed(monkeypatch, "serve", uri).model_name == name


def test_downloads_go_to_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert parsed(monkeypatch, "serve", "builtin://x").cache_dir == tmp_path / "aweigh"


def test_the_environment_sets_what_no_flag_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWEIGH_MAX_RUNNING", "3")
    monkeypatch.setenv("AWEIGH_PORT", "8123")
    config = parsed(monkeypatch, "serve", "builtin://x", "--port=8124")
    assert (config.max_running, config.port) == (3, 8124)


def test_a_contradiction_ends_with_78_and_the_pods_last_word(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    done = aweigh("serve", "builtin://helmsman-8m", "--step-tokens=4", f"--termination-log={log}")
    assert done.returncode == 78
    assert "--step-tokens (4) must be at least --max-running (256)" in done.stderr
    word = Termination.parse(log.read_text())
    assert word is not None
    assert (word.condition, word.reason) == ("SpecValid", "InvalidConfiguration")
    assert f"error: {word.message}" == done.stderr.strip()


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("AWEIGH_MAX_RUNNING", "abc", "'abc' is not an integer"),
        ("AWEIGH_DEVICE", "tpu", "'tpu' is not one of 'auto', 'cpu', 'cuda'"),
        ("AWEIGH_PREFIX_CACHE_SIZE", "lots", "'lots' is not an amount of memory"),
        ("AWEIGH_PREFIX_CACHE_ENABLED", "maybe", "'maybe' is neither true nor false; set it to"),
    ],
)
@pytest.mark.parametrize("by_variable", [True, False], ids=["log by variable", "log by flag"])
def test_a_variable_of_the_wrong_kind_ends_with_78_and_the_pods_last_word(
    variable: str, value: str, sentence: str, by_variable: bool, tmp_path: Path
) -> None:
    log = tmp_path / "termination-log"
    where = {"AWEIGH_TERMINATION_LOG": str(log)} if by_variable else {}
    flag = () if by_variable else (f"--termination-log={log}",)
    done = aweigh("serve", "builtin://x", *flag, env=environment(**{variable: value}, **where))
    assert done.returncode == 78
    word = Termination.parse(log.read_text())
    assert word is not None
    assert (word.condition, word.reason) == ("SpecValid", "InvalidConfiguration")
    assert word.message.startswith(f"{variable} is not valid: ")
    assert sentence in word.message
    assert f"error: {word.message}" == done.stderr.strip()


def test_a_flag_of_the_wrong_kind_ends_with_78_whatever_comes_first(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    done = aweigh("serve", "builtin://x", "--dtype=int3", f"--termination-log={log}")
    assert done.returncode == 78
    word = Termination.parse(log.read_text())
    assert word is not None
    expected = "--dtype is not valid: 'int3' is not one of 'auto', 'bf16', 'fp16', 'fp32'"
    assert word.message == expected


def test_a_variable_that_sets_nothing_is_named_with_the_nearest_that_does() -> None:
    misspelt = environment(
        AWEIGH_MAX_RUNING="4", AWEIGH_COLOUR="red", AWEIGH_OCI_PLAIN_HTTP="r", AWEIGH_PORT="0"
    )
    done = aweigh("serve", "nowhere://x", env=misspelt)
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert [line.split()[1] for line in warnings] == ["AWEIGH_COLOUR", "AWEIGH_MAX_RUNING"]
    assert warnings[0].endswith("`aweigh serve --help` lists the flags")
    assert warnings[1].endswith("did you mean AWEIGH_MAX_RUNNING?")
