"""What the documents say must exist: fields, reasons, codes, values, targets, files."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aweigh_api import crd, metrics
from aweigh_api.reasons import ConditionType, Reason
from aweigh_api.spec import Spec
from aweigh_api.termination import ExitCode
from aweigh_operator.events import Deed
from tests.cluster.places import CHECKOUT

PAGES = ("*.md", "docs/**/*.md", "benchmarks/**/*.md", "examples/**/*.md")
DOCUMENTS = sorted(page for pattern in PAGES for page in CHECKOUT.glob(pattern))
GUIDES = CHECKOUT / "docs" / "guides"
ALL_IS_WELL = {
    Reason.READY,
    Reason.VALID,
    Reason.LOADED,
    Reason.AVAILABLE,
    Reason.SUSPENDED,
    Reason.WARM,
    Reason.ACTIVE,
    Reason.NO_PROMPTS,
    Reason.DISABLED,
    Reason.STEADY,
    Reason.SETTLING,
    Reason.LOAD_GREW,
    Reason.LOAD_FELL,
    Reason.BOUNDS,
    Reason.SCALED_TO_ZERO,
}
TAKES_TIME = {Reason.LOADING, Reason.PROGRESSING, Reason.WAITING_FOR_PODS}
REFUSED_AT_APPLY = {Reason.INVALID_SPEC, Reason.INVALID_CONFIGURATION}  # the message says it all


def guide(name: str) -> str:
    return (GUIDES / f"{name}.md").read_text()


def reference(name: str) -> str:
    return (CHECKOUT / "docs" / "reference" / f"{name}.md").read_text()


def test_the_reference_has_every_condition_reason_event_and_exit_code() -> None:
    text = reference("conditions")
    assert [kind for kind in ConditionType if f"`{kind}`" not in text] == []
    assert [reason for reason in (*Reason, *Deed) if f"`{reason}`" not in text] == []
    assert [code for code in ExitCode if f"| {code.value} |" not in text] == []


def test_the_reference_names_no_reason_that_does_not_exist() -> None:
    rows = [line.split("|")[2] for line in reference("conditions").splitlines() if "|" in line]
    named = {word for row in rows for word in re.findall(r"`([A-Z][A-Za-z]+)`", row)}
    assert named <= {*Reason, *Deed}


def test_troubleshooting_helps_with_every_reason_that_needs_help() -> None:
    text = guide("troubleshooting")
    helpless = set(Reason) - ALL_IS_WELL - TAKES_TIME - REFUSED_AT_APPLY
    assert [reason for reason in sorted(helpless) if f"`{reason}`" not in text] == []


@pytest.mark.parametrize("part", sorted(crd.structural(Spec)["properties"]))
def test_the_reference_has_every_field_of_the_spec(part: str) -> None:
    text = guide("inferenceservice")
    fields = crd.structural(Spec)["properties"][part].get("properties", {})
    missing = [name for name in fields if f".{name}`" not in text and f".{name}." not in text]
    assert f"`{part}" in text
    assert missing == []


def test_install_has_every_value_of_the_chart() -> None:
    values = yaml.safe_load((CHECKOUT / "helm" / "aweigh" / "values.yaml").read_text())
    text = guide("install")
    assert [name for name in _names(values) if not re.search(rf"[`.]{name}`", text)] == []


def test_the_api_guide_has_every_metric() -> None:
    text = guide("http-api")
    own = [value for name, value in vars(metrics).items() if name.isupper() and "aweigh_" in value]
    assert [
        name for name in [*own, *metrics.VLLM_ALIASES.values()] if f"`{name}`" not in text
    ] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_are_targets_of_the_makefile(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    text = document.read_text()
    named = re.findall(r"(?:^|`|=current )make ([a-z-]+)", text, re.MULTILINE)
    assert set(named) <= targets


def _names(values: dict[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        whole = name in ("resources", "nodeSelector", "affinity", "podLabels", "podAnnotations")
        if isinstance(value, dict) and not whole and name != "labels":
            yield from _names(value)
        else:
            yield name
