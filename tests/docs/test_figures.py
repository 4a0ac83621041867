"""The figures in the README are those of the results that it links."""

import re
from itertools import permutations
from pathlib import Path

import pytest

from tests.cluster.places import CHECKOUT

FIGURE = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?")
LINK = re.compile(r"\]\((benchmarks/results/[\w.-]+\.md)\)")
ROWS = [
    line
    for line in (CHECKOUT / "README.md").read_text().splitlines()
    if line.startswith("|") and LINK.search(line)
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: LINK.findall(row)[0].split("/")[-1])
def test_each_figure_of_the_readme_stands_in_the_results_that_it_links(row: str) -> None:
    what, value, *_ = row.strip("| ").split(" | ")
    pages = [CHECKOUT / link for link in LINK.findall(row)]
    known = {number for page in pages for number in figures(page.read_text())}
    if "times" in what:
        known |= {quotient for page in pages for quotient in quotients(page)}
    if "%" in value:
        known |= {100 * number for number in known}
    assert [each for each in FIGURE.findall(value) if not stands(each, known)] == []


def stands(text: str, known: set[float]) -> bool:
    """Whether a figure is a known number, rounded to as many places."""
    half = 0.5 * 10.0 ** -len(text.partition(".")[2])
    return any(abs(number(text) - each) <= half * (1 + 1e-6) for each in known)


def figures(text: str) -> list[float]:
    return [number(each) for each in FIGURE.findall(text)]


def number(text: str) -> float:
    return float(text.replace(",", ""))


def quotients(page: Path) -> set[float]:
    """Of two numbers in one row or one column of a page's tables."""
    found: set[float] = set()
    for table in re.findall(r"(?:^\|.*\n)+", page.read_text(), re.MULTILINE):
        rows = [[figures(cell) for cell in line.split("|")] for line in table.splitlines()]
        for cells in (*rows, *zip(*rows, strict=False)):
            numbers = [each for cell in cells for each in cell if each]
            found |= {one / other for one, other in permutations(numbers, 2)}
    return found
