"""Renders the chart with the helm that the test cluster builds, or the one on the PATH."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import binaries, places

CHART = places.CHECKOUT / "helm" / "aweigh"
IMAGES = (
    "operator.image=registry.example.com/aweigh-operator:1",
    "runtime.image=registry.example.com/aweigh-runtime:1",
    "router.image=registry.example.com/aweigh-router:1",
)
NAMESPACED = ("watchNamespaces={team-a,team-b}",)
POD_MONITOR = "monitoring.coreos.com/v1/PodMonitor"

Manifest = dict[str, Any]


def helm(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run helm; a test that finds none is skipped, which `make test` never does: it builds one."""
    built = binaries.program("helm")
    executable = built if built.exists() else shutil.which("helm")
    if executable is None:
        pytest.skip("helm is neither built nor on the PATH: `make cluster` builds it")
    return subprocess.run(
        [executable, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def template(*values: str, kinds: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
    """`helm template` with these values, for a cluster that knows these kinds, too."""
    settings = [argument for value in values for argument in ("--set", value)]
    known = [f"--api-versions={kind}" for kind in kinds]
    where = ("--namespace", "aweigh-system")
    return helm("template", "aweigh", str(CHART), *where, *settings, *known)


def rendered(*values: str, kinds: Sequence[str] = ()) -> str:
    """The manifests as text."""
    done = template(*IMAGES, *values, kinds=kinds)
    assert done.returncode == 0, done.stderr
    return done.stdout


def manifests(*values: str, kinds: Sequence[str] = ()) -> list[Manifest]:
    """The manifests as objects."""
    return parsed(rendered(*values, kinds=kinds))


def parsed(text: str) -> list[Manifest]:
    """The objects of a rendering, in an order that does not depend on helm's version."""
    found = [document for document in yaml.safe_load_all(text) if document]
    return sorted(found, key=lambda each: (each["kind"], str(each["metadata"])))


def of_kind(kind: str, found: list[Manifest]) -> list[Manifest]:
    """The objects of one kind."""
    return [manifest for manifest in found if manifest["kind"] == kind]


def golden(name: str) -> Path:
    """A rendering that was reviewed."""
    return Path(__file__).parent / "golden" / f"{name}.yaml"
