"""Small multiples with a panel per arm: learning curves, and class accuracies."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from ablation.analysis.results import Results
from ablation.reporting.figures.style import (
    CONTEXT,
    GREY,
    INK,
    axis_label,
    colours,
    legend_of,
    panels,
    style,
    wrapped,
)

MAX_ARMS = 12  # that figures with a panel per arm show each for itself
N_COLUMNS = 4
MAX_MARKED = 15  # points of a curve that are marked one by one


def learning_curves(results: Results) -> Figure | None:
    """The headline metric over epochs: mean and range over seeds, the thaw, the other arms in grey, baselines."""
    curves = {arm: curve(results, arm, results.headline) for arm in results.arms}
    curves = {arm: table for arm, table in curves.items() if len(table) > 1}
    if not curves:
        return None
    colour = colours(list(results.arms))
    with style():
        arms = shown_arms(results, list(curves))
        figure, grid = _panels(arms, "epoch", axis_label(results.headline))
        for arm, axes in grid.items():
            for other in curves.values():
                axes.plot(other.mean(axis=1), color=CONTEXT, lw=1, zorder=1)
            table, look = curves[arm], {"color": colour[arm], "lw": 2.2, "ms": 4, "zorder": 3}
            if table.shape[1] > 1:
                ends = table.min(axis=1), table.max(axis=1)
                axes.fill_between(table.index, *ends, color=colour[arm], alpha=0.25, lw=0)
            axes.plot(table.mean(axis=1), "o-" if len(table) <= MAX_MARKED else "-", **look)
            end = warmup_end(results, arm)
            if end is not None:
                axes.axvline(end, color=GREY, lw=1.2, ls=":", label="encoder thaws")
            _draw_baselines(axes, results)
        _legend_below(figure, grid)
    return figure


def per_class(results: Results) -> Figure | None:
    """Accuracy of each class against its number of training images, the reference baseline in black."""
    table = results.per_class.dropna(subset=["n_train"])
    means = table.groupby(["arm", "class"])[["n_train", "accuracy"]].mean()
    lines = {
        arm: means.loc[arm].sort_values("n_train", kind="stable").set_index("n_train")["accuracy"]
        for arm in [*results.arms, *results.baselines]
        if arm in means.index
    }
    arms = [arm for arm in results.arms if arm in lines]
    if not arms:
        return None
    reference = results.manifest.reference
    with style():
        labels = "training images of the class", "accuracy (%)"
        figure, grid = _panels(shown_arms(results, arms), *labels)
        for arm, axes in grid.items():
            for other in arms:
                axes.plot(lines[other], color=CONTEXT, lw=1, zorder=1)
            if reference in lines:
                axes.plot(lines[reference], color=INK, lw=1.2, label=reference, zorder=2)
            colour = colours(list(results.arms))[arm]
            axes.plot(lines[arm], "o-", color=colour, lw=2, ms=4, zorder=3)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        _legend_below(figure, grid)
    return figure


def shown_arms(results: Results, arms: list[str], most: int = MAX_ARMS) -> list[str]:
    """Which of some arms a figure shows each for itself, in the manifest's order.

    All, up to `most`; else the first arm, from which the others depart, and those with the best means.
    """
    if len(arms) <= most:
        return arms
    means = results.cells(results.headline)[arms[1:]].mean()
    best = means.sort_values(
        ascending=results.manifest.metric["goal"] == "minimize", kind="stable"
    ).index[: most - 1]
    return [arm for arm in arms if arm == arms[0] or arm in best]


def curve(results: Results, arm: str, metric: str) -> pd.DataFrame:
    """(epochs, seeds) of a metric in training proper: without pre-training, whose epochs have a count of their own."""
    history = results.history
    rows = history[(history["arm"] == arm) & (history["phase"] != "pretrain")]
    if metric not in history:
        return pd.DataFrame()
    return rows.dropna(subset=[metric]).pivot_table(index="epoch", columns="seed", values=metric)


def warmup_end(results: Results, arm: str) -> int | None:
    """The last epoch with a frozen encoder, in the first seed; None for an arm that never thaws or never froze."""
    rows = results.history[results.history["arm"] == arm]
    frozen = rows[(rows["phase"] == "warmup") & (rows["seed"] == rows["seed"].min())]
    return int(frozen["epoch"].max()) if len(frozen) and (rows["phase"] == "joint").any() else None


def _panels(arms: list[str], x_label: str, y_label: str) -> tuple[Figure, dict[str, Axes]]:
    """A panel per arm."""
    figure, grid = panels(len(arms), N_COLUMNS, (2.9, 2.5), 5, 0.8, sharex=True, sharey=True)
    for arm, axes in zip(arms, grid):
        axes.set_title(wrapped(arm), fontweight="bold", size=10)
    for axes in grid[-N_COLUMNS:]:
        axes.set_xlabel(x_label)
        axes.tick_params(labelbottom=True)
    for axes in grid[::N_COLUMNS]:
        axes.set_ylabel(y_label)
    return figure, dict(zip(arms, grid))


def _draw_baselines(axes: Axes, results: Results) -> None:
    """Their means as horizontal lines: the reference in black, the others thin and grey."""
    ends, reference = results.cells(results.headline).mean().dropna(), results.manifest.reference
    for baseline in results.baselines:
        if baseline in ends and baseline != reference:
            look = {"color": GREY, "lw": 0.8, "ls": "--", "label": "other baselines"}
            axes.axhline(ends[baseline], **look, zorder=2)
    if reference in results.baselines and reference in ends:
        axes.axhline(ends[reference], color=INK, lw=1.2, zorder=2, label=f"measured {reference}")


def _legend_below(figure: Figure, grid: dict[str, Axes]) -> None:
    n_columns = max(1, int(figure.get_figwidth() / 2.6))
    legend_of(figure, grid.values(), "outside lower center", n_columns)
