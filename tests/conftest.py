"""Fixtures for every test."""

import sys
from collections.abc import Callable

import pytest

pytest_plugins = ["tests.cluster.fixture"]

Tell = Callable[[str], None]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Print a measured number, past pytest's capturing."""

    def line(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{text}\n")

    return line
