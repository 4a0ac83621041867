"""Rewrites the reviewed renderings: `python -m tests.chart`, then read the diff."""

from tests.chart.render import golden, rendered
from tests.chart.test_render import CASES, WITHOUT_CRD


def main() -> None:
    for name, (values, kinds) in CASES.items():
        golden(name).write_text(rendered(WITHOUT_CRD, *values, kinds=kinds))


if __name__ == "__main__":
    main()
