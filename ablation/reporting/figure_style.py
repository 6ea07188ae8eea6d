"""What all figures share: colours, sizes, names, and files that are the same bytes every time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablation.formatting import effect, effects_decimals, is_percent, label, points

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# Paul Tol's "muted" scheme, distinct under the common kinds of colour blindness; its cyan is
# darkened for thin lines.
PALETTE = ["#332288", "#CC6677", "#117733", "#AA4499", "#4FA8D8", "#999933", "#882255", "#44AA99"]
INK = "#222222"
GREY = "#888888"
# colour of lines that are there to compare with
CONTEXT = "#d5d5d5"
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
DASHES = ["-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (9, 3))]

_STYLE: dict[RcKeyType, object] = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    # above the axes, as there are no ticks: to look for them takes a tenth of a figure's time
    "axes.titley": 1.0,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    # in inches
    "figure.constrained_layout.w_pad": 0.1,
    # gives the same figure the same ids inside the SVG
    "svg.hashsalt": "ablate",
}

# of PNG files
DPI = 150
# no dates, no versions; at level 3, a PNG takes two thirds of the time and is a twentieth larger
_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 3}},
    ".svg": {"metadata": {"Date": None, "Creator": None}},
}


def style() -> AbstractContextManager[None]:
    """The context that figures are made and saved in."""
    return rc_context(_STYLE)


def colours(arms: Sequence[str]) -> dict[str, str]:
    """One colour per arm, the same in every figure of a study; they repeat after eight."""
    return {arm: PALETTE[index % len(PALETTE)] for index, arm in enumerate(arms)}


def axis_label(metric: str) -> str:
    """The name of a metric with its unit, for an axis."""
    return f"{label(metric)} (%)" if is_percent(metric) else label(metric)


def panels(
    n: int,
    most_columns: int,
    size: tuple[float, float],
    least_width: float,
    below: float = 0,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple[Figure, np.ndarray]:
    """A figure of n panels, row by row, and its axes.

    Args:
        size: width and height of a panel, in inches
        least_width: of the figure
        below: height for what stands below the panels
        sharex, sharey: as of `Figure.subplots`
    """
    n_columns = min(most_columns, n)
    n_rows = math.ceil(n / n_columns)
    figsize = (max(size[0] * n_columns, least_width), size[1] * n_rows + below)
    figure = Figure(figsize=figsize, layout="constrained")
    axes_of = figure.subplots(n_rows, n_columns, squeeze=False, sharex=sharex, sharey=sharey)
    grid = axes_of.ravel()
    for axes in grid[n:]:
        axes.remove()
    return figure, grid[:n]


def label_rows(axes: Axes, names: dict[float, str]) -> None:
    """Name rows by their heights, the first at the top."""
    axes.set_yticks(list(names), list(names.values()))
    axes.set_ylim(max(names) + 0.6, -0.6)
    axes.tick_params(axis="y", length=0)


def draw_interval(
    axes: Axes, y: float, interval: Sequence[float], look: dict[str, Any], filled: bool
) -> None:
    """Draw a point with its interval.

    interval: mean, low, high; look: of the point
    """
    mean, low, high = interval
    # NaN draws nothing
    axes.plot([low, high], [y, y], "-", color=look["color"], lw=2, solid_capstyle="butt")
    axes.plot(mean, y, ls="", mfc=look["color"] if filled else "white", mew=2, **look)


def write_intervals(
    axes: Axes, places: Sequence[float], intervals: Sequence[tuple[float, float, float]]
) -> None:
    """Write effects with their intervals beside the axes, all with the same decimals.

    places: heights; intervals: mean, low, high of each
    """
    n_decimals = effects_decimals(intervals)
    for y, interval in zip(places, intervals, strict=True):
        write_beside(axes, y, effect(*interval, n_decimals))


def write_beside(axes: Axes, y: float, text: str) -> None:
    """To the right of the axes, at a height in the data's unit."""
    axes.annotate(
        text,
        (1.01, y),
        xycoords=("axes fraction", "data"),
        va="center",
        family="DejaVu Sans Mono",
        size=10,
    )


def of_points(metric: str) -> str:
    """The unit of a metric's differences, for an axis."""
    return f" ({points(metric).strip()})" if points(metric) else ""


def wrapped(arm: str) -> str:
    """An arm's name, broken at its plus signs into lines of at most 24 characters if possible."""
    lines = [""]
    for part in arm.split("+"):
        joined = f"{lines[-1]}+{part}" if lines[-1] else part
        if len(joined) <= 24 or not lines[-1]:
            lines[-1] = joined
        else:
            lines[-1] += "+"
            lines.append(part)
    return "\n".join(lines)


def legend_of(
    figure: Figure,
    panels: Iterable[Axes],
    where: Literal["outside lower center", "outside upper center"],
    n_columns: int,
) -> None:
    """One legend for several panels, each name once."""
    found = {
        name: handle
        for axes in panels
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if found:
        figure.legend(list(found.values()), list(found), loc=where, ncols=n_columns)


def save(figure: Figure | None, path: Path) -> None:
    """Write `path`.png and `path`.svg; remove them where there is no figure."""
    if figure is not None:
        _lay_out(figure)
    for suffix in _OPTIONS:
        file = path.with_name(path.name + suffix)
        if figure is None:
            file.unlink(missing_ok=True)
        else:
            save_as(figure, file)


def _lay_out(figure: Figure) -> None:
    """Place what is in a figure now, once for all its files: each would do it anew."""
    engine = figure.get_layout_engine()
    if engine is None:
        return
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if not axis.label.get_text():
                # Matplotlib would look for a place for it, again and again
                axis.set_label_coords(0, 0)
    with style():
        figure.set_dpi(DPI)
        engine.execute(figure)
        # what is placed stays
        figure.set_layout_engine(None)


def save_as(figure: Figure, file: Path) -> None:
    """Write one file, .png or .svg, the same bytes for the same figure."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with style():
        figure.savefig(file, dpi=DPI, **_OPTIONS[file.suffix])
