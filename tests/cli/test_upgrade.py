"""`aweigh upgrade` against a kubectl that tells what it was asked."""

import json
from pathlib import Path

import pytest

from tests.cli.command import aweigh, environment
from tests.cli.fake_kubectl import fake_kubectl

NOW = "--settle=0"  # no operator was just replaced


def test_one_service_moves_to_the_new_image(tmp_path: Path) -> None:
    kubectl = fake_kubectl(tmp_path, services=("chat",), obeyed=("chat",))
    done = aweigh("upgrade", "chat", "-n", "web", NOW, env=kubectl.environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "web/chat: runtime:1 is being replaced",
        "web/chat: runs runtime:2",
    ]
    (annotate,) = kubectl.calls("annotate")
    assert annotate[1:3] == ["inferenceservices.serving.aweigh.dev", "chat"]
    assert annotate[-2:] == ["--namespace", "web"]


def test_all_services_move_one_after_the_other(tmp_path: Path) -> None:
    names = ("chat", "code", "mail")
    kubectl = fake_kubectl(tmp_path, services=names, obeyed=names)
    done = aweigh("upgrade", "--all", NOW, env=kubectl.environment)
    assert done.returncode == 0, done.stderr
    steps = [call[2] for call in kubectl.calls("annotate", "rollout")]
    assert steps == [step for name in names for step in (name, f"deployment/{name}")]
    assert done.stdout.splitlines()[2].startswith("default/code: runtime:1")


def test_routers_are_moved_and_waited_for_as_pods_are(tmp_path: Path) -> None:
    one = ("chat",)
    kubectl = fake_kubectl(tmp_path, one, obeyed=one, routed=one, stuck=("chat-router",))
    done = aweigh("upgrade", "chat", "--timeout=1", NOW, env=kubectl.environment)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "default/chat: runtime:1 is being replaced",
        "default/chat: router:1 is being replaced",
    ]
    waited = [call[2] for call in kubectl.calls("rollout")]
    assert waited == ["deployment/chat", "deployment/chat-router"]


def test_what_is_current_stays_as_it_is_unless_it_is_forced(tmp_path: Path) -> None:
    names = ("chat", "code")
    kubectl = fake_kubectl(tmp_path, services=names, obeyed=names, current=("chat",))
    done = aweigh("upgrade", "--all", NOW, env=kubectl.environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "default/chat: runs runtime:1, as the operator would make it now; --force restarts it",
        "default/code: runtime:1 is being replaced",
        "default/code: runs runtime:2",
    ]
    forced = aweigh("upgrade", "chat", "--force", NOW, env=kubectl.environment)
    assert forced.stdout.splitlines()[-1] == "default/chat: runs runtime:2"


def test_who_was_asked_while_operators_change_is_asked_again(tmp_path: Path) -> None:
    names = ("chat", "code")
    kubectl = fake_kubectl(tmp_path, services=names, obeyed=names, outgoing=("chat",))
    done = aweigh("upgrade", "--all", "--settle=1", env=kubectl.environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == [
        "default/chat: runtime:1 is being replaced",
        "default/chat: runs runtime:2",
    ]
    assert [call[2] for call in kubectl.calls("annotate")] == ["chat", "chat", "code"]


def test_what_holds_pods_up_is_told_while_they_are_waited_for(tmp_path: Path) -> None:
    kubectl = fake_kubectl(tmp_path, ("chat",), obeyed=("chat",), stuck=("chat",))
    done = aweigh("upgrade", "chat", "--timeout=4", NOW, env=kubectl.environment)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "default/chat: runtime:1 is being replaced",
        "default/chat: waits for pods. Its condition Ready is False: chat waits",
    ]


def test_one_that_is_being_deleted_holds_up_no_other(tmp_path: Path) -> None:
    names = ("chat", "code")
    kubectl = fake_kubectl(tmp_path, services=names, obeyed=("code",), deleted=("chat",))
    done = aweigh("upgrade", "--all", NOW, env=kubectl.environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "InferenceService default/chat is being deleted, or is no longer there; expected one that "
        "stays; it is left out",
        "default/code: runtime:1 is being replaced",
        "default/code: runs runtime:2",
    ]
    alone = aweigh("upgrade", "chat", NOW, env=kubectl.environment)
    assert alone.returncode == 1
    assert "default/chat is being deleted" in alone.stderr


def test_the_first_that_fails_stops_the_upgrade(tmp_path: Path) -> None:
    names = ("chat", "code", "mail")
    kubectl = fake_kubectl(tmp_path, services=names, obeyed=names, stuck=("code",))
    done = aweigh("upgrade", "--all", "--timeout=1", NOW, env=kubectl.environment)
    assert done.returncode == 1
    assert "default/code: not all pods are ready." in done.stderr
    assert "Its condition Ready is False: code waits" in done.stderr
    assert [call[2] for call in kubectl.calls("annotate")] == ["chat", "code"]
    again = aweigh("upgrade", "--all", "--timeout=1", NOW, env=kubectl.environment)
    assert again.returncode == 1, "code is current by now, and its pods are still not ready"
    assert [call[2] for call in kubectl.calls("annotate")][2:] == ["chat", "code"]


@pytest.mark.parametrize("bare", [(), ("chat",)])
def test_an_operator_that_does_not_answer_is_missed_within_the_timeout(
    tmp_path: Path, bare: tuple[str, ...]
) -> None:
    """It does not run, or it can make no Deployment."""
    kubectl = fake_kubectl(tmp_path, services=("chat",), obeyed=bare, current=bare, bare=bare)
    done = aweigh("upgrade", "chat", "--timeout", "1", NOW, env=kubectl.environment)
    assert done.returncode == 1
    assert "default/chat: no answer from the operator within 1 s; expected one that" in done.stderr
    assert "Its condition Ready is False: chat waits" in done.stderr


def test_the_answer_to_another_upgrade_is_none(tmp_path: Path) -> None:
    kubectl = fake_kubectl(tmp_path, services=("chat",), obeyed=("chat",))
    assert aweigh("upgrade", "chat", NOW, env=kubectl.environment).returncode == 0
    world = json.loads(kubectl.file.read_text())
    kubectl.file.write_text(json.dumps({**world, "obeyed": []}))
    done = aweigh("upgrade", "chat", "--timeout", "1", NOW, env=kubectl.environment)
    assert done.returncode == 1
    assert "no answer from the operator" in done.stderr


def test_nothing_to_upgrade_is_said(tmp_path: Path) -> None:
    done = aweigh("upgrade", "--all", "-A", env=fake_kubectl(tmp_path).environment)
    assert (done.returncode, done.stdout) == (0, "no InferenceService to upgrade\n")


def test_a_name_that_does_not_exist_is_kubectls_own_sentence(tmp_path: Path) -> None:
    done = aweigh("upgrade", "chat", env=fake_kubectl(tmp_path).environment)
    assert done.returncode == 1
    assert "Error from server (NotFound)" in done.stderr


def test_name_and_all_exclude_each_other() -> None:
    assert "given: neither NAME nor --all" in aweigh("upgrade").stderr
    both = aweigh("upgrade", "chat", "--all")
    assert both.returncode == 78
    assert "given: both NAME and --all; expected one of the two" in both.stderr
    assert "expected it with --all alone" in aweigh("upgrade", "chat", "-A").stderr


def test_without_kubectl_the_path_is_named(tmp_path: Path) -> None:
    done = aweigh("upgrade", "chat", env=environment(PATH=str(tmp_path)))
    assert done.returncode == 1
    assert "kubectl is not on the PATH; install it" in done.stderr
