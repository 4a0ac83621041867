"""Fixtures for every test."""

pytest_plugins = ["tests.cluster.fixture"]
