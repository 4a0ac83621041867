"""`aweigh upgrade` against a kubectl that tells what it was asked."""

from pathlib import Path

from tests.cli.command import aweigh, environment
from tests.cli.fake_kubectl import fake_kubectl


def test_one_service_moves_to_the_new_image(tmp_path: Path) -> None:
    kubectl = fake_kubectl(tmp_path, services=("chat",), obeyed=("chat",))
    done = aweigh("upgrade", "chat", "-n", "web", env=kubectl.environment)
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
    done = aweigh("upgrade", "--all", env=kubectl.environment)
    assert done.returncode == 0, done.stderr
    steps = [call[2] for call in kubectl.calls("annotate", "rollout")]
    assert steps == [step for name in names for step in (name, f"deployment/{name}")]
    assert done.stdout.splitlines()[2].startswith("default/code: runtime:1")


def test_what_is_current_stays_as_it_is_unless_it_is_forced(tmp_path: Path) -> None:
    names = ("chat", "code")
    kubectl = fake_kubectl(tmp_path, services=names, obeyed=names, current=("chat",))
    done = aweigh("upgrade", "--all", env=kubectl.environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == (
        "default/chat: runs runtime:1, as the operator would make it now; --force restarts it"
    )
    assert [call[2] for call in kubectl.calls("annotate", "rollout")] == ["code", "deployment/code"]
    forced = aweigh("upgrade", "chat", "--force", env=kubectl.environment)
    assert forced.stdout.splitlines()[-1] == "default/chat: runs runtime:2"


def test_the_first_that_fails_stops_the_upgrade(tmp_path: Path) -> None:
    names = ("chat", "code", "mail")
    kubectl = fake_kubectl(tmp_path, services=names, obeyed=names, stuck=("code",))
    done = aweigh("upgrade", "--all", env=kubectl.environment)
    assert done.returncode == 1
    assert "default/code: the new pods are not ready." in done.stderr
    assert "Its condition Ready is False: code waits" in done.stderr
    assert [call[2] for call in kubectl.calls("annotate")] == ["chat", "code"]


def test_an_operator_that_does_not_act_is_missed_within_the_timeout(tmp_path: Path) -> None:
    kubectl = fake_kubectl(tmp_path, services=("chat",))
    done = aweigh("upgrade", "chat", "--timeout", "1", env=kubectl.environment)
    assert done.returncode == 1
    assert "the operator has not acted within 1 s; expected a running operator" in done.stderr


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
