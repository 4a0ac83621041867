"""What holds for all commands."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import ENTRY, aweigh, environment, script
from tests.cli.fake_kubectl import fake_kubectl

NOT_OF_CLI = (
    "aiohttp", "huggingface_hub", "jinja2", "kopf", "kubernetes", "llguidance", "msgspec", "numpy",
    "obstore", "prometheus_client", "tokenizers", "torch", "transformers",
)  # fmt: skip


def test_help_names_every_command() -> None:
    help_text = aweigh("--help").stdout
    commands = "serve local chat plan quantize distill bench top why upgrade version"
    for command in commands.split():
        assert f"\n  {command} " in help_text


def test_the_version_is_a_flag_and_a_command() -> None:
    assert aweigh("--version").stdout == aweigh("version").stdout != ""


def test_help_and_completion_import_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'aweigh_runtime', 'pydantic', 'httpx', 'yaml'}"
    check = f"import sys, aweigh_cli.commands; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_as_a_plugin_it_speaks_as_the_user_typed(tmp_path: Path) -> None:
    plugin = script(tmp_path, "kubectl-aweigh", ENTRY)
    done = subprocess.run(
        [plugin, "chat", "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert "Usage: kubectl aweigh chat" in done.stdout


def test_a_failure_is_one_line_and_no_traceback() -> None:
    done = aweigh("local", "-f", "/nowhere.yaml")
    assert done.returncode == 78
    assert done.stderr.startswith("error: cannot read /nowhere.yaml: ")
    assert len(done.stderr.splitlines()) == 1


def test_an_unknown_flag_is_a_usage_error() -> None:
    done = aweigh("serve", "builtin://helmsman-8m", "--dtipe=fp32")
    assert done.returncode == 2
    assert "No such option: --dtipe" in done.stderr


def test_without_the_extra_runtime_serving_says_what_to_install() -> None:
    without_torch = f"import sys; sys.modules['torch'] = None; {ENTRY}"
    done = subprocess.run(
        [sys.executable, "-c", without_torch, "serve", "builtin://helmsman-8m"],
        env=environment(), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: serving needs torch, not installed here")
    assert "aweigh[runtime]" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["chat"]], ids=["help", "on a cluster"])
@pytest.mark.parametrize("command", ["top", "why", "upgrade"])
def test_the_extra_cli_is_enough_for_what_kubectl_does(
    command: str, arguments: list[str], tmp_path: Path
) -> None:
    kubectl = fake_kubectl(tmp_path, services=("chat",), obeyed=("chat",))
    alone = f"import sys; sys.modules.update(dict.fromkeys({NOT_OF_CLI})); {ENTRY}"
    done = subprocess.run(
        [sys.executable, "-c", alone, command, *arguments],
        env=kubectl.environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "chat" in done.stdout or f"aweigh {command}" in done.stdout
    assert "import" not in done.stderr
