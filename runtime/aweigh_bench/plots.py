"""Diagrams as one PNG file. The only module that loads matplotlib."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from aweigh_bench.failures import BenchFailure
from aweigh_bench.report import Curves, Report, expect_writable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_INCHES, HEIGHT_INCHES, DOTS_PER_INCH = 7.0, 4.0, 120
MANY_POINTS = 40  # from here on markers would hide the line


def expect_possible(path: Path) -> None:
    """Refuse before anything is measured what could not be drawn afterwards."""
    expect_writable("--plot", path, (".png",))
    if find_spec("matplotlib") is None:
        raise BenchFailure(
            "--plot needs matplotlib, not installed here; expected the extra `bench`: install "
            "aweigh[bench]"
        )


def save(report: Report, path: Path) -> None:
    """Draw all curves of a report, one under the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(report.curves)
    figure = Figure((WIDTH_INCHES, HEIGHT_INCHES * count), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    for position, curves in enumerate(report.curves):
        _draw(figure.add_subplot(count, 1, position + 1), curves)
    figure.suptitle(f"{report.title}: {report.model}, {report.machine['cpu']}", fontsize="small")
    try:
        figure.savefig(path)
    except OSError as error:
        raise BenchFailure(f"cannot write {path}: {error.strerror}") from error


def _draw(axes: "Axes", curves: Curves) -> None:
    for name, points in curves.lines.items():
        marker = "" if len(points) > MANY_POINTS else "o"
        axes.plot([x for x, _ in points], [y for _, y in points], label=name, marker=marker)
    axes.set(title=curves.title, xlabel=curves.x, ylabel=curves.y)
    if curves.logarithmic:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
