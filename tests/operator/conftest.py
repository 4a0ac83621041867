import pytest

from aweigh_operator import reconcile
from tests.operator.fakes import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of every reconciler of the test."""
    found = Clock()
    monkeypatch.setattr(reconcile, "time", found)
    monkeypatch.setattr(reconcile, "datetime", found)
    return found
