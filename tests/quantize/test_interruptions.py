"""Killed, out of disk space, or given twice: no half a model is ever taken for a whole one."""

import errno
import os
import resource
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
import torch

from aweigh_quantize.job import run
from aweigh_quantize.state import Steps
from aweigh_quantize.tensor_file import CannotWrite, written
from aweigh_quantize.unfinished import Occupied, Unfinished
from tests.cli.command import arguments, environment
from tests.quantize.jobs import AMOUNT, Silent, job

PATIENCE_S = 60.0


def command(model: Path, out: Path) -> list[str]:
    """The same as a job with scheme gptq."""
    return arguments(
        "quantize",
        str(model),
        f"--output={out}",
        f"--num-texts={AMOUNT.num_texts}",
        f"--text-tokens={AMOUNT.num_tokens}",
        f"--cache-dir={model.parent / 'cache'}",
    )


def test_a_killed_run_goes_on_and_gives_the_same_bytes(cut: Path, tmp_path: Path) -> None:
    run(job(cut, tmp_path / "whole", scheme="gptq"), Silent())
    out, first = tmp_path / "out", tmp_path / "out.partial" / "layer-0000.safetensors"
    with subprocess.Popen(command(cut, out), env=environment(OMP_NUM_THREADS="1")) as killed:
        deadline = time.monotonic() + PATIENCE_S
        while not first.is_file() and time.monotonic() < deadline:
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
    assert first.is_file()
    assert not out.exists()

    shown = Silent()
    run(job(cut, out, scheme="gptq"), shown)
    assert ("layers", 2, 1) in shown.parts or ("layers", 2, 2) in shown.parts
    for name in ("model.safetensors", "config.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize(
    "lost", ["layer-0000.safetensors", "layer-0001.safetensors", "layer-0001.streams"]
)
def test_a_damaged_file_is_made_again_when_the_work_goes_on(
    cut: Path, tmp_path: Path, lost: str
) -> None:
    class Stopped(Exception):
        pass

    class Impatient(Silent):
        def begin(self, what: str, total: int, done: int = 0) -> None:
            super().begin(what, total, done)
            if what == "writing":
                raise Stopped

    run(job(cut, tmp_path / "whole", scheme="gptq"), Silent())
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        run(job(cut, out, scheme="gptq"), Impatient())
    damaged = tmp_path / "out.partial" / lost
    damaged.write_bytes(damaged.read_bytes()[:-1])

    shown = Silent()
    run(job(cut, out, scheme="gptq"), shown)
    assert ("layers", 2, 1 if lost.startswith("layer-0000") else 0) in shown.parts
    assert (out / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "make room and give the same command again"),
        (errno.EDQUOT, "make room and give the same command again"),
        (errno.EACCES, "expected a folder that this user may write to"),
        (errno.EROFS, "expected a folder that this user may write to"),
    ],
)
def test_what_keeps_a_file_from_being_written_has_its_own_remedy(
    tmp_path: Path, code: int, remedy: str
) -> None:
    with (
        pytest.raises(CannotWrite, match=rf"cannot write .*model: {os.strerror(code)}; {remedy}"),
        written(tmp_path / "model"),
    ):
        raise OSError(code, os.strerror(code))


def test_a_full_disk_is_said_and_the_same_command_goes_on(cut: Path, tmp_path: Path) -> None:
    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    run(job(cut, tmp_path / "whole", scheme="gptq"), Silent())  # its texts are kept
    out = tmp_path / "out"
    failed = subprocess.run(
        command(cut, out),
        env=environment(OMP_NUM_THREADS="1"),
        preexec_fn=little_room,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert failed.returncode == 1
    assert "cannot write" in failed.stderr
    assert "give the same command again" in failed.stderr
    assert not out.exists()
    run(job(cut, out, scheme="gptq"), Silent())
    assert (out / "model.safetensors").is_file()


def test_what_has_its_name_outlives_a_power_cut(
    cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of each file, and the lists of names that lead to it, were brought to the disk."""
    brought, really = set(), os.fsync

    def watched(descriptor: int) -> None:
        really(descriptor)
        found = os.fstat(descriptor)
        brought.add((found.st_ino, found.st_size if stat.S_ISREG(found.st_mode) else None))

    monkeypatch.setattr(os, "fsync", watched)
    run(job(cut, tmp_path / "out"), Silent())
    files = [path.stat() for path in (tmp_path / "out").iterdir()]
    assert {(each.st_ino, each.st_size) for each in files} <= brought
    folders = (tmp_path, tmp_path / "out")
    assert {(folder.stat().st_ino, None) for folder in folders} <= brought


def test_another_command_is_refused_by_what_differs(cut: Path, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    class Impatient(Silent):
        def advance(self) -> None:
            super().advance()
            if self.parts[-1][0] == "layers":
                raise Stopped

    with pytest.raises(Stopped):
        run(job(cut, tmp_path / "out", scheme="gptq"), Impatient())
    with pytest.raises(Occupied, match="--bits is 3, and was 4"):
        run(job(cut, tmp_path / "out", scheme="gptq", bits=3), Silent())
    text = tmp_path / "long.txt"
    text.write_text("A Pod is the smallest unit that Kubernetes deploys. " * 100)
    with pytest.raises(Occupied, match="the calibration is another one"):
        run(job(cut, tmp_path / "out", [text], scheme="gptq"), Silent())


class Killed(BaseException):
    """The process ends here."""


def killed(folder: Path) -> None:
    raise Killed(folder)


def killed_at_work(folder: Path) -> None:
    (folder / "layer-0000.safetensors").write_text("a layer")
    (folder / "steps-000001").mkdir()
    killed(folder)


def begun(out: Path) -> Unfinished:
    """A run that has finished a layer and was killed."""
    unfinished = Unfinished(out)
    with pytest.raises(Killed), unfinished.claimed({"bits": 4}, {"model": "small"}):
        killed_at_work(unfinished.folder)
    return unfinished


def test_of_a_run_killed_once_its_result_was_there_the_same_command_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfinished = begun(tmp_path / "out")
    unfinished.model.mkdir()
    with monkeypatch.context() as here:
        here.setattr("aweigh_quantize.unfinished.settle", killed)  # before anything is removed
        with pytest.raises(Killed):
            unfinished.complete()
    assert unfinished.folder.exists()
    for _ in range(2):
        with (
            pytest.raises(Occupied, match="out, which exists already"),
            unfinished.claimed({"bits": 4}, {"model": "small"}),
        ):
            pass
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_run_has_done_is_kept_where_somebody_else_makes_its_output(
    tmp_path: Path,
) -> None:
    unfinished = begun(tmp_path / "out")
    unfinished.out.mkdir()
    with pytest.raises(Occupied), unfinished.claimed({"bits": 4}, {"model": "small"}):
        pass
    assert (unfinished.folder / "layer-0000.safetensors").is_file()


@pytest.mark.parametrize("left", [[], ["0000.safetensors"]], ids=["no file", "one of two"])
def test_steps_of_training_that_lack_a_layer_are_done_again(
    tmp_path: Path, left: list[str]
) -> None:
    steps = Steps(tmp_path, num_layers=2)
    for index in range(2):
        steps.write(7, index, {"scales": torch.ones(3)})
    steps.finish(7)
    assert Steps(tmp_path, num_layers=2).num_finished() == 7
    for path in (tmp_path / "steps-000007").iterdir():
        if path.name not in left:
            path.unlink()
    again = Steps(tmp_path, num_layers=2)
    assert again.num_finished() == 0
    assert again.tensors(0) == {}
