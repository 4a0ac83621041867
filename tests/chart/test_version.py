"""The version stands in three files, and they agree."""

import re
import tomllib

import yaml

from tests.cluster.places import CHECKOUT


def test_pyproject_chart_and_changelog_name_the_same_version() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHECKOUT / "helm" / "aweigh" / "Chart.yaml").read_text())
    newest = re.search(r"^## \[([0-9.]+)\]", (CHECKOUT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert {chart["version"], chart["appVersion"], newest[1]} == {project}
