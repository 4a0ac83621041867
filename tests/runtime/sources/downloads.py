"""Downloads from the local hub."""

import subprocess
import sys
from pathlib import Path

from aweigh_runtime.sources import fetch

URI = "hf://sea/helmsman"


class Reports(list[tuple[int, int | None]]):
    """What progress was told."""

    def __call__(self, done: int, total: int | None) -> None:
        self.append((done, total))


def download(
    cache: Path,
    uri: str = URI,
    revision: str | None = None,
    secret_dir: Path | None = None,
    progress: Reports | None = None,
) -> Path:
    return fetch(
        uri,
        revision=revision,
        secret_dir=secret_dir,
        cache_dir=cache,
        progress=Reports() if progress is None else progress,
    )


def secret(tmp_path: Path, **values: str) -> Path:
    """A Secret as it is mounted: a directory with a file for each key."""
    directory = tmp_path / "secret"
    directory.mkdir(exist_ok=True)
    for path in directory.iterdir():
        path.unlink()
    for key, value in values.items():
        (directory / key).write_text(value)
    return directory


def in_two_processes(cache: Path, uri: str) -> list[int]:
    """Exit codes of two processes that download at the same time."""
    code = (
        "import sys; from pathlib import Path; from aweigh_runtime.sources import fetch; "
        "fetch(sys.argv[1], revision=None, secret_dir=None, cache_dir=Path(sys.argv[2]), "
        "progress=lambda done, total: None)"
    )
    command = [sys.executable, "-c", code, uri, str(cache)]
    running = [subprocess.Popen(command) for _ in range(2)]
    return [process.wait(60) for process in running]
