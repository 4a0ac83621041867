"""Every example is valid: for the models here, and for a real API server."""

from pathlib import Path

import pytest

from aweigh_cli.manifests import read_service
from tests.cluster.cluster import Cluster
from tests.cluster.places import CHECKOUT

EXAMPLES = sorted((CHECKOUT / "examples").glob("*.yaml"))


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} >= {"helmsman", "llama-gpu", "pvc", "shared-prefix"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_is_a_valid_service(example: Path) -> None:
    read_service(example.read_text(), str(example), None)


@pytest.mark.cluster
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_api_server_takes_the_example(
    cluster: Cluster, operator: None, namespace: str, example: Path
) -> None:
    answer = cluster.kubectl("apply", "--dry-run=server", "-n", namespace, "-f", str(example))
    assert "created (server dry run)" in answer
