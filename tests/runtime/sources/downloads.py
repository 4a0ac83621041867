"""Downloads from the local hub."""

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
