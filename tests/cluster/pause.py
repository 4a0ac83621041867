"""The image of every pod's sandbox, packed without a daemon or a registry."""

import functools
import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path

from tests.cluster import keep, places, progress
from tests.cluster.components import PAUSE_IMAGE

SOURCE = Path(__file__).with_name("pause.c")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def archive() -> Path:
    """The image as an archive that containerd imports; made once."""
    key = keep.digest([SOURCE, Path(__file__)])
    return keep.made("bin", "pause", key, _make) / "pause.tar"


def _make(into: Path) -> None:
    program = into / "pause"
    command = ["gcc", "-O2", "-static", "-s", "-o", program, SOURCE]
    progress.run(command, places.cache() / "logs" / "pause.log")
    _pack(program, into / "pause.tar")


def _pack(program: Path, into: Path) -> None:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as files:
        files.add(program, arcname=program.name)
    machine = platform.machine()
    config = json.dumps(
        {
            "architecture": ARCHITECTURES.get(machine, machine),
            "os": "linux",
            "config": {"Entrypoint": [f"/{program.name}"], "User": "65535"},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer.getvalue())]},
        }
    ).encode()
    manifest = [{"Config": "config.json", "RepoTags": [PAUSE_IMAGE], "Layers": ["layer.tar"]}]
    with tarfile.open(into, "w") as image:
        add = functools.partial(_add, image)
        add("config.json", config)
        add("layer.tar", layer.getvalue())
        add("manifest.json", json.dumps(manifest).encode())


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
