"""What happens inside: a panel per metric, a numbered line per arm."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ablation.figures.curves import curve, shown_arms, warmup_end
from ablation.figures.style import CONTEXT, GREY, PALETTE, colours, style
from ablation.results import Results

MECHANISM = {
    "train/diffusion_loss": "diffusion loss",
    "grad/encoder": "gradient norm, encoder",
    "grad/real_at_latent": "gradient norm at the latents,\nclassification",
    "grad/semantic_at_latent": "gradient norm at the latents,\nsemantic losses",
    "grad/conflict_cosine": "cosine of the two\n(below 0 they conflict)",
    "grad/conflict_cosine_parameters": "the same at the\nencoder's parameters",
    "diag/latent_drift": "latent drift from the\npretrained encoder",
    "diag/effective_rank": "effective rank of latents",
    "diag/total_variance": "total variance of latents",
    "diag/radius_head": "mean radius, head classes",
    "diag/radius_tail": "mean radius, tail classes",
}
N_COLUMNS = 4
CHARACTER = 0.085  # inches, of the key's text
MAX_LINES = len(PALETTE)  # arms that have a line of a colour of their own


def mechanism(results: Results) -> Figure | None:
    """The mean over seeds of each metric that there is; dotted lines and dots where encoders thaw."""
    arms = list(results.arms)
    curves = {
        metric: {arm: curve(results, arm, metric) for arm in arms}
        for metric in MECHANISM
        if metric in results.history
    }
    curves = {
        metric: tables
        for metric, tables in curves.items()
        if any(len(table) > 1 for table in tables.values())
    }
    if not curves:
        return None
    shown, thaws = (
        shown_arms(results, arms, MAX_LINES),
        {arm: warmup_end(results, arm) for arm in arms},
    )
    n_columns = min(N_COLUMNS, len(curves))
    n_rows = math.ceil(len(curves) / n_columns)
    with style():
        figure = Figure(figsize=(max(3.2 * n_columns, 5), 2.7 * n_rows + 0.9), layout="constrained")
        grid = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for axes, (metric, tables) in zip(grid, curves.items()):
            axes.set_title(MECHANISM[metric])
            axes.set_xlabel("epoch")
            _draw(
                axes,
                {arm: table.mean(axis=1) for arm, table in tables.items() if len(table)},
                shown,
                thaws,
            )
        for axes in grid[len(curves) :]:
            axes.set_axis_off()
        key = [
            Line2D(
                [],
                [],
                color=colours(shown)[arm],
                lw=1.8,
                ls=_dash(index),
                label=f"{index + 1}  {arm}",
            )
            for index, arm in enumerate(shown)
        ]
        columns = max(1, int(figure.get_figwidth() / (1 + CHARACTER * max(map(len, shown)))))
        figure.legend(
            handles=key,
            loc="outside lower center",
            ncols=columns,
            labelcolor="linecolor",
            handlelength=3,
        )
    return figure


def _draw(
    axes: Axes, lines: dict[str, pd.Series], shown: Sequence[str], thaws: dict[str, int | None]
) -> None:
    """lines: arm -> a metric by epoch."""
    colour = colours(shown)
    for epoch in sorted({thaws[arm] for arm in shown if thaws[arm] is not None}):
        axes.axvline(epoch, color=GREY, lw=0.9, ls=":", zorder=1)
    for arm, line in lines.items():
        if arm not in shown:
            axes.plot(line, color=CONTEXT, lw=1, zorder=1)
            continue
        axes.plot(line, color=colour[arm], lw=1.8, ls=_dash(shown.index(arm)))
        if thaws[arm] in line.index:
            axes.plot(
                thaws[arm], line[thaws[arm]], "o", color=colour[arm], ms=6.5, mec="white", zorder=4
            )
    axes.margins(y=0.08)
    ends = {arm: (line.index[-1], line.iloc[-1]) for arm, line in lines.items() if arm in shown}
    if len(ends) > 1 and all(line.equals(next(iter(lines.values()))) for line in lines.values()):
        axes.annotate(
            "all",
            next(iter(ends.values())),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            size=10,
            fontweight="bold",
        )
    elif ends:
        _number_ends(axes, ends, shown)


def _dash(index: int) -> str | tuple:
    """So that of two equal lines both are seen."""
    return "-" if index % 2 == 0 else (0, (4, 1.5))


def _number_ends(axes: Axes, ends: dict[str, tuple[float, float]], arms: Sequence[str]) -> None:
    """Write each arm's number beside the end of its line, in a column for those that end at the same epoch."""
    colour, (left, right), (low, high) = colours(arms), axes.get_xlim(), axes.get_ylim()
    last = max(epoch for epoch, _ in ends.values())
    for end in sorted({epoch for epoch, _ in ends.values()}):
        heights = {
            arm: (value - low) / (high - low)
            for arm, (epoch, value) in ends.items()
            if epoch == end
        }
        column = 1.06 if end == last else (end - left) / (right - left) + 0.07
        for arm, y in _apart(heights, min(0.1, 1 / len(ends))).items():
            axes.annotate(
                str(arms.index(arm) + 1),
                ends[arm],
                xytext=(column, y),
                textcoords="axes fraction",
                color=colour[arm],
                va="center",
                size=10,
                fontweight="bold",
                arrowprops={
                    "arrowstyle": "-",
                    "color": colour[arm],
                    "lw": 0.5,
                    "shrinkA": 0,
                    "shrinkB": 2,
                },
            )


def _apart(heights: dict[str, float], gap: float) -> dict[str, float]:
    """Arm -> height in 0 to 1, in the same order and at least `gap` from each other."""
    places: dict[str, float] = {}
    floor = 0.0
    for arm in sorted(heights, key=lambda name: heights[name]):
        places[arm] = floor = max(heights[arm], floor)
        floor += gap
    ceiling = 1.0
    for arm in reversed(places):
        places[arm] = min(places[arm], ceiling)
        ceiling = places[arm] - gap
    return places
