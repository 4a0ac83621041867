"""The parts of the cluster's machinery that need no cluster."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import cluster as clusters
from tests.cluster import demo, environment, images, keep, places, processes, progress
from tests.cluster.places import CHECKOUT
from tests.cluster.processes import Record


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AWEIGH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_cluster_is_named_after_its_checkout_and_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = places.of(tmp_path / "first"), places.of(tmp_path / "second")
    assert first.name != second.name
    assert first == places.of(tmp_path / "first")
    monkeypatch.setenv("AWEIGH_CACHE", str(tmp_path / "another"))
    assert places.of(tmp_path / "first").name != first.name


def test_a_lock_is_held_by_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = "import sys; from tests.cluster import places; from pathlib import Path\n"
    code += "with places.lock(Path(sys.argv[1]), wait=False) as free: print(free)"

    def other_process_gets_it() -> str:
        command = [sys.executable, "-c", code, str(path)]
        return subprocess.run(
            command, cwd=CHECKOUT, capture_output=True, text=True, check=True
        ).stdout.strip()

    with places.lock(path):
        assert other_process_gets_it() == "False"
    assert other_process_gets_it() == "True"


def test_a_thing_is_made_once_and_found_again(cache: Path) -> None:
    def make(into: Path) -> None:
        (into / "content").write_text("made")

    def fail(into: Path) -> None:
        raise AssertionError(f"made again in {into}")

    first = keep.made("bin", "tool", "1", make)
    assert (first / "content").read_text() == "made"
    assert keep.made("bin", "tool", "1", fail) == first


def test_what_was_left_half_made_is_made_again(cache: Path) -> None:
    def fail(into: Path) -> None:
        (into / "half").touch()
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        keep.made("bin", "tool", "1", fail)
    kept = keep.made("bin", "tool", "1", lambda into: (into / "whole").touch())
    assert [path.name for path in kept.iterdir()] == ["whole"]


def test_the_two_versions_that_were_used_last_are_kept(cache: Path) -> None:
    for age, key in enumerate(("1", "2", "3")):
        kept = keep.made("bin", "tool", key, lambda into: None)
        os.utime(kept, (1000 + age, 1000 + age))
    keep.made("bin", "other", "1", lambda into: None)
    keep.made("bin", "tool", "2", lambda into: None)
    assert sorted(path.name for path in cache.glob("bin/[!.]*")) == ["other-1", "tool-2", "tool-3"]


def test_a_digest_follows_content_and_names_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("1")
    before = keep.digest([folder])
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "a.pyc").touch()
    os.utime(folder / "a", (1, 1))
    assert keep.digest([folder]) == before
    (folder / "a").rename(folder / "b")
    assert keep.digest([folder]) != before


def test_a_process_id_that_was_given_to_somebody_else_is_not_ours() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        status = Path(f"/proc/{child.pid}/stat").read_text()
        started = processes.start_time(status)
        assert Record(child.pid, started, ["sleep"]).alive
        assert not Record(child.pid, "1", ["sleep"]).alive
        child.kill()
    assert not Record(child.pid, started, ["sleep"]).alive


def test_a_name_with_brackets_and_blanks_does_not_hide_when_a_process_started() -> None:
    status = "7 (odd) name) S 1 " + " ".join(str(field) for field in range(5, 30))
    assert processes.start_time(status) == "22"


def test_a_failed_command_ends_with_what_it_printed_and_names_its_log(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text("of an earlier run\n")
    with pytest.raises(progress.StepFailed) as failed:
        progress.run(["sh", "-c", "echo no such module; exit 3"], log)
    assert str(failed.value).splitlines()[0].endswith(f"exited 3; {log} has all:")
    assert str(failed.value).splitlines()[1:] == ["no such module"]


@pytest.mark.parametrize("name", images.DOCKERFILES)
def test_an_images_tag_follows_everything_that_its_dockerfile_copies(name: str) -> None:
    sources = images.inputs(name)
    assert images.DOCKERFILES[name] in sources
    assert CHECKOUT / "operator" / "aweigh_api" in sources
    assert all(source.exists() for source in sources)


@pytest.mark.parametrize(
    "path", [*environment.PINS.values(), *map(environment.layer_pins, environment.LAYERS)]
)
def test_an_image_pins_what_the_environment_pins(path: Path) -> None:
    image = pins(path)
    assert image
    assert image <= pins(CHECKOUT / "requirements.txt")


def pins(path: Path) -> set[str]:
    """The versions in a requirements file, without the conditions under which each holds."""
    return {line.partition(";")[0].strip() for line in path.read_text().splitlines()}


def test_pinned_files_name_no_address() -> None:
    for path in CHECKOUT.glob("*/requirements*.txt"):
        assert "://" not in path.read_text()
    assert "://" not in (CHECKOUT / "requirements.txt").read_text()


def test_an_unknown_choice_of_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWEIGH_CLUSTER", "kind")
    with pytest.raises(ValueError, match="AWEIGH_CLUSTER is 'kind'; expected `current`"):
        clusters.chosen()


def test_the_demo_prints_the_text_of_a_stream_and_nothing_else() -> None:
    stream = [
        b": a comment\n",
        b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n',
        b"\n",
        b'data: {"choices": [{"delta": {"content": "A Pod"}}]}\n',
        b'data: {"choices": [{"delta": {"content": " is"}}]}\n',
        b'data: {"choices": []}\n',
        b"data: [DONE]\n",
    ]
    assert "".join(demo.pieces(iter(stream))) == "A Pod is"
