"""The generated CustomResourceDefinition. That a real API server takes it: tests/e2e."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aweigh_api import crd
from aweigh_api.schema import Schema

ROOT = Path(__file__).parents[2]
CHECKED_IN = ROOT / "crds" / "inferenceservices.yaml"


def test_the_checked_in_definition_is_what_the_models_say(
    capsys: pytest.CaptureFixture[str],
) -> None:
    crd.main()
    assert capsys.readouterr().out == CHECKED_IN.read_text(), "run `make crds`"


def _fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from _fields(field, f"{path}.{name}")
        for part, label in (("items", "[]"), ("additionalProperties", "{}")):
            if part in field:
                yield f"{path}.{name}{label}", field[part]
                yield from _fields(field[part], f"{path}.{name}{label}")


def test_every_field_is_explained() -> None:
    (version,) = yaml.safe_load(CHECKED_IN.read_text())["spec"]["versions"]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    for part in ("spec", "status"):
        named = [each for each in _fields(properties[part], part) if each[0][-1] not in "]}"]
        for path, field in named:
            assert len(field.get("description", "")) > 8, f"{path} has no description"


def test_every_number_text_and_list_of_the_spec_is_bounded() -> None:
    (version,) = yaml.safe_load(CHECKED_IN.read_text())["spec"]["versions"]
    bounds = {"integer": "maximum", "string": "maxLength", "array": "maxItems"}
    for path, field in _fields(version["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec"):
        bound = bounds.get(field.get("type", ""))
        assert bound is None or bound in field or "enum" in field, f"{path} has no {bound}"


def test_a_union_that_kubernetes_cannot_store_is_refused_at_generation() -> None:
    class Ambiguous(Schema):
        """Two shapes."""

        value: list[int] | dict[str, int]

    with pytest.raises(ValueError, match="no unions"):
        crd.structural(Ambiguous)
