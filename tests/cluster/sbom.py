"""Bills of materials in CycloneDX: every Python package of each image, by its pinned version."""

from pathlib import Path

from tests.cluster import environment, places, progress
from tests.cluster.places import CHECKOUT

WRITER = "cyclonedx-bom==7.5.0"
FOLDER = CHECKOUT / "dist"


def write(folder: Path = FOLDER) -> list[Path]:
    """Write one for each image; the same pins give the same bytes."""
    log = places.cache() / "logs" / "sbom.log"
    tool = environment.uv(log)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for image in environment.IMAGES:
        target = folder / f"aweigh-{image}.cdx.json"
        progress.run(
            [
                *(tool, "tool", "run", "--from", WRITER, "cyclonedx-py", "requirements"),
                *("--pyproject", CHECKOUT / "pyproject.toml", "--mc-type=application"),
                *("--output-reproducible", "--of=JSON"),
                *("-o", target, environment.PINS[image]),
            ],
            log,
        )
        written.append(target)
    return written
