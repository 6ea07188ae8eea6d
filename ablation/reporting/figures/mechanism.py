"""What happens inside: a panel per metric, a numbered line per arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ablation.analysis.results import Results
from ablation.reporting.figures.curves import curve, shown_arms, warmup_end
from ablation.reporting.figures.style import CONTEXT, GREY, PALETTE, colours, panels, style

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
    curves = {metric: own for metric, own in curves.items() if max(map(len, own.values())) > 1}
    if not curves:
        return None
    shown = shown_arms(results, arms, MAX_LINES)
    thaws = {arm: warmup_end(results, arm) for arm in arms}
    with style():
        figure, grid = panels(len(curves), N_COLUMNS, (3.2, 2.7), 5, 0.9)
        for axes, (metric, tables) in zip(grid, curves.items()):
            axes.set_title(MECHANISM[metric])
            axes.set_xlabel("epoch")
            lines = {arm: table.mean(axis=1) for arm, table in tables.items() if len(table)}
            _draw(axes, lines, shown, thaws)
        key = [
            Line2D([], [], **_look(arm, shown), label=f"{index + 1}  {arm}")
            for index, arm in enumerate(shown)
        ]
        columns = max(1, int(figure.get_figwidth() / (1 + CHARACTER * max(map(len, shown)))))
        look = {"labelcolor": "linecolor", "handlelength": 3}
        figure.legend(handles=key, loc="outside lower center", ncols=columns, **look)
    return figure


def _draw(
    axes: Axes, lines: dict[str, pd.Series], shown: Sequence[str], thaws: dict[str, int | None]
) -> None:
    """lines: arm -> a metric by epoch."""
    for epoch in sorted({thaws[arm] for arm in shown if thaws[arm] is not None}):
        axes.axvline(epoch, color=GREY, lw=0.9, ls=":", zorder=1)
    for arm, line in lines.items():
        if arm not in shown:
            axes.plot(line, color=CONTEXT, lw=1, zorder=1)
            continue
        look, thaw = _look(arm, shown), thaws[arm]
        axes.plot(line, **look)
        if thaw in line.index:
            axes.plot(thaw, line[thaw], "o", color=look["color"], ms=6.5, mec="white", zorder=4)
    axes.margins(y=0.08)
    ends = {arm: (line.index[-1], line.iloc[-1]) for arm, line in lines.items() if arm in shown}
    first, *others = lines.values()
    if len(ends) > 1 and all(line.equals(first) for line in others):
        where = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate("all", next(iter(ends.values())), **where, size=10, fontweight="bold")
    elif ends:
        _number_ends(axes, ends, shown)


def _look(arm: str, shown: Sequence[str]) -> dict[str, Any]:
    """Of an arm's line; every second is dashed, so that of two equal lines both are seen."""
    dash = (0, (4, 1.5)) if shown.index(arm) % 2 else "-"
    return {"color": colours(shown)[arm], "lw": 1.8, "ls": dash}


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
            line = {"arrowstyle": "-", "color": colour[arm], "lw": 0.5, "shrinkA": 0, "shrinkB": 2}
            axes.annotate(
                str(arms.index(arm) + 1),
                ends[arm],
                xytext=(column, y),
                textcoords="axes fraction",
                color=colour[arm],
                va="center",
                size=10,
                fontweight="bold",
                arrowprops=line,
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
