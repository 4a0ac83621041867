"""pytest fixtures: the cluster, the operator installed on it, and a namespace for each test.

The cluster's pods are reached from inside its network only, so the whole run moves there before
the first test when one of them needs the cluster: servers that tests start on the loopback
address are then reached by all of them alike.
"""

import contextlib
from collections.abc import Iterator

import pytest

from tests.cluster import cluster as clusters
from tests.cluster import network, prepare
from tests.cluster.cluster import Cluster

_FAILURE = pytest.StashKey[Exception]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Bring up what the tests that will run ask for, before the time of any of them counts."""
    asked = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if session.config.option.collectonly or "cluster" not in asked:
        return
    try:
        with _seen(session.config):
            wanted = clusters.chosen()
            (prepare.deliver if "operator" in asked else prepare.cluster)(wanted)
            if wanted.place is not None:
                network.enter(wanted.place)
    except Exception as error:  # the tests that need the cluster fail with it, the others run
        session.config.stash[_FAILURE] = error


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Cluster:
    """A cluster that is up; this process is in its network."""
    if error := pytestconfig.stash.get(_FAILURE, None):
        raise error
    return clusters.chosen()


@pytest.fixture(scope="session")
def operator(cluster: Cluster, pytestconfig: pytest.Config) -> None:
    """The operator of the present code, installed from the chart."""
    with _seen(pytestconfig):
        cluster.install()


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A new namespace under Pod Security's strictest level."""
    with cluster.namespace() as name:
        yield name


def _seen(config: pytest.Config) -> contextlib.AbstractContextManager[None]:
    """Let progress reach the terminal: these steps may take minutes."""
    manager = config.pluginmanager.getplugin("capturemanager")
    seen: contextlib.AbstractContextManager[None] = (
        manager.global_and_fixture_disabled() if manager else contextlib.nullcontext()
    )
    return seen
